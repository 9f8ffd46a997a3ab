"""Encoding of images for several threads: batching, errors, cancellation, fusion settings."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from PIL import Image
from torch import Tensor

import mgm
from mgm import Engine, FusionConfig, MGMError
from mgm.data.image_processing_mgm import MGMImageProcessor
from mgm.engine import engine_thread
from tests.serve.servers import wait_for

COLOURS = ("red", "green", "blue", "white", "black", "yellow", "pink", "orange", "brown", "gray")


def plain(colour: str) -> Image.Image:
    return Image.new("RGB", (40, 30), colour)


def expected(engine: Engine, colour: str) -> Tensor:
    return Engine(engine.model, engine.processor).images.encode([plain(colour)])[0]


def watch(engine: Engine, monkeypatch, before: Callable[[Tensor], None] = lambda _: None):
    """Record the batch sizes of the towers, and their threads."""
    seen: list[tuple[int, str]] = []
    original = engine.model.get_image_features

    def counted(pixel_values_aux):
        seen.append((len(pixel_values_aux), threading.current_thread().name))
        before(pixel_values_aux)
        return original(pixel_values_aux=pixel_values_aux)

    monkeypatch.setattr(engine.model, "get_image_features", counted)
    return seen


@contextmanager
def busy(engine: Engine) -> Iterator[threading.Event]:
    """Block the engine thread until the event is set."""
    engine.start()
    event = threading.Event()
    engine._core.run_soon(lambda: event.wait(60) and None)
    try:
        yield event
    finally:
        event.set()
        engine.stop()


def submit_images(engine: Engine, pool: ThreadPoolExecutor, colours) -> list[Future[list[Tensor]]]:
    """Submit an image from each of several threads; returns once all are queued."""
    original, queued = engine.images._queue._enqueue, []

    def enqueue(key: bytes, pixels: Tensor) -> Future[Tensor]:
        queued.append(key)
        return original(key, pixels)

    engine.images._queue._enqueue = enqueue
    futures = [pool.submit(engine.images.encode, [plain(colour)]) for colour in colours]
    wait_for(lambda: len(queued) == len(colours))
    wait_for(lambda: len(engine._core._thread._calls) == len(set(colours)))
    assert not any(future.done() for future in futures)
    return futures


def test_images_of_several_threads_are_batched(engine, monkeypatch):
    colours = [*COLOURS, "red", "red"]
    ours = [expected(engine, colour) for colour in colours]
    seen = watch(engine, monkeypatch)
    with ThreadPoolExecutor(len(colours)) as pool, busy(engine) as free:
        futures = submit_images(engine, pool, colours)
        free.set()
        features = [future.result(60)[0] for future in futures]
    assert seen == [(8, "engine"), (2, "engine")]
    torch.testing.assert_close(features, ours, rtol=1e-3, atol=1e-3)
    assert engine.images.encode([plain("red")])[0] is engine.images.cache.get(
        engine.images.prepare([plain("red")], [""])[0].key
    )
    assert len(seen) == 2


def test_preprocessing_runs_in_the_callers_thread(engine, monkeypatch):
    threads = []
    original = MGMImageProcessor.high_resolution

    def recorded(self, image):
        threads.append(threading.current_thread().name)
        return original(self, image)

    monkeypatch.setattr(MGMImageProcessor, "high_resolution", recorded)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    with busy(engine) as free:
        prepared = engine.prepare([mgm.Request("what?", images=[plain("red")])])
        many = engine.prepare([mgm.Request("what?", images=[plain(one) for one in COLOURS])])
        assert threads[0] == "MainThread"
        assert len(threads) == 1 + len(COLOURS)
        assert not {"engine", "MainThread"} & set(threads[1:])
        free.set()
        assert all("".join(one) for one in engine.start_generation(many))
        assert all("".join(one) for one in engine.start_generation(prepared))
    assert len(threads) == 1 + len(COLOURS)


def test_error_of_one_image_does_not_affect_others(engine, monkeypatch):
    def blind(pixels: Tensor) -> None:
        if any(bool((one.float().mean((1, 2)) == 255).all()) for one in pixels):
            raise RuntimeError("too bright")

    square = Image.new("RGB", (64, 64), "white")
    red = expected(engine, "red")
    seen = watch(engine, monkeypatch, blind)
    with ThreadPoolExecutor(2) as pool, busy(engine) as free:
        (fine,) = submit_images(engine, pool, ["red"])
        bad = pool.submit(engine.images.encode, [square])
        wait_for(lambda: len(engine.images._queue._queue) == 2)
        free.set()
        torch.testing.assert_close(fine.result(60)[0], red)
        with pytest.raises(MGMError, match=r"encoding an image .*too bright"):
            bad.result(60)
    assert [count for count, _ in seen] == [2, 1, 1]


def test_out_of_memory(engine, monkeypatch):
    limit = 1

    def full(pixels: Tensor) -> None:
        if len(pixels) > limit:
            raise torch.OutOfMemoryError("tried to allocate\nmuch")

    seen = watch(engine, monkeypatch, full)
    assert len(engine.images.encode([plain("red"), plain("blue")])) == 2
    assert [count for count, _ in seen] == [2, 1, 1]
    limit = 0
    with pytest.raises(MGMError, match=r"too little memory to encode an image \(tried to allocate"):
        engine.images.encode([plain("green")])
    limit = 8
    torch.testing.assert_close(engine.images.encode([plain("green")])[0], expected(engine, "green"))


@pytest.mark.parametrize("fault", [None, RuntimeError("together")])
def test_interrupt_leaves_no_state(engine, monkeypatch, fault):
    faults = iter([KeyboardInterrupt()] if fault is None else [fault, KeyboardInterrupt()])

    def interrupted(_: Tensor) -> None:
        for error in faults:
            raise error

    seen = watch(engine, monkeypatch, interrupted)
    images = [plain(colour) for colour in COLOURS]  # two batches: the second waits
    with pytest.raises(KeyboardInterrupt):
        engine.images.encode(images)
    assert len(engine.images.encode(images)) == len(COLOURS)
    assert [count for count, _ in seen][-2:] == [8, 2]


def test_waiting_threads_get_an_error_when_the_engine_stops(engine, monkeypatch):
    monkeypatch.setattr(
        engine_thread, "MAX_CALL_SECONDS", -1.0
    )  # it checks after every forward pass
    engine.start()
    event = threading.Event()
    engine._core.run_soon(lambda: event.wait(60) and None)
    with ThreadPoolExecutor(13) as pool:
        futures = submit_images(engine, pool, [*COLOURS, "red", "red"])
        stopped = pool.submit(engine.stop)
        wait_for(lambda: engine._core._thread._stopped)
        event.set()
        stopped.result(60)
        errors = [future.exception(60) for future in futures]
    assert all(isinstance(error, MGMError) and "stopped" in str(error) for error in errors)
    assert len(engine.images.encode([plain(colour) for colour in COLOURS])) == len(COLOURS)


def test_fusion_settings_have_separate_cache_entries(engine):
    other = FusionConfig(mode="none")
    request = mgm.Request("what?", images=[plain("red")], max_new_tokens=8)
    whole, answer = engine.images.encode([plain("red")])[0], engine.answer([request])[0]
    prepared = engine.prepare([request])
    engine.fusion = other
    assert engine.fusion == engine.model.fusion == other
    ablated = engine.images.encode([plain("red")])[0]
    assert not torch.allclose(ablated, whole, atol=1e-3)
    alone = Engine(engine.model, engine.processor)
    assert torch.equal(alone.images.encode([plain("red")])[0], ablated)
    # Nor does a cached prefix with the earlier image match.
    assert engine.answer([request])[0].text == alone.answer([request])[0].text
    with pytest.raises(MGMError, match="prepare them again"):
        engine.start_generation(prepared)
    engine.fusion = FusionConfig()
    misses = engine.images.cache.misses
    assert engine.images.encode([plain("red")])[0] is whole
    assert engine.images.cache.misses == misses
    assert engine.answer([request])[0].text == answer.text


def test_fusion_cannot_change_during_generation(engine):
    stream = engine.stream(mgm.Request("what?", images=[plain("red")], max_new_tokens=8))
    next(stream)
    with pytest.raises(MGMError, match="requests are running"):
        engine.fusion = FusionConfig(mode="none")
    assert engine.fusion == FusionConfig()
    stream.close()
    engine.fusion = FusionConfig(mode="pool")
    with pytest.raises(MGMError, match="window_shift is 2; valid: below 2"):
        engine.fusion = FusionConfig(window_shift=2)
    assert engine.fusion == FusionConfig(mode="pool")


def test_load_with_fusion(engine, tiny_folder):
    pooled = mgm.load(tiny_folder, device="cpu", fusion=FusionConfig(mode="pool"))
    ours = pooled.images.encode([plain("red")])[0]
    engine.fusion = FusionConfig(mode="pool")
    assert torch.equal(ours, engine.images.encode([plain("red")])[0])
    with pytest.raises(MGMError, match="loaded with text_only"):
        mgm.load(tiny_folder, device="cpu", text_only=True, fusion=FusionConfig(mode="pool"))


def test_fusion_as_a_dictionary_or_none(engine, tiny_folder):
    assert mgm.load(tiny_folder, device="cpu", fusion={"mode": "pool"}).fusion.mode == "pool"
    engine.fusion = {"mode": "none"}
    assert engine.fusion == engine.model.fusion == FusionConfig(mode="none")
    engine.fusion = None
    assert engine.fusion == engine.model.fusion == engine.model.config.fusion


@pytest.mark.parametrize("fusion", ["pool", 3, ["pool"], {"fusion": "pool"}, {"mode": None}])
def test_invalid_fusion(engine, tiny_folder, fusion):
    """Also at load; the setting stays as it was."""
    before = engine.fusion
    with pytest.raises(MGMError, match="config: fusion"):
        mgm.load(tiny_folder, device="cpu", fusion=fusion)
    with pytest.raises(MGMError, match="config: fusion"):
        engine.fusion = fusion
    assert engine.fusion == before

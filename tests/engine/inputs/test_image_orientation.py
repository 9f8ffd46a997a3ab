"""EXIF orientation of images in requests, and decoding limits of an engine."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import mgm
from mgm import Engine, MGMError
from mgm.data.images import decoding
from mgm.data.images.limits import NETWORK_LIMITS
from tests.tiny_model import build


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return mgm.load(build(tmp_path_factory.mktemp("models") / "tiny"), device="cpu")


def photo(orientation: int = 6) -> bytes:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20, :30] = 250
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", exif=exif)
    return file.getvalue()


def test_orientation_upright_and_stored(engine):
    content = photo()
    stored = Image.open(io.BytesIO(content)).convert("RGB")
    upright = Image.fromarray(np.asarray(stored.transpose(Image.Transpose.ROTATE_270)))
    stored = Image.fromarray(np.asarray(stored))
    expected = {
        word: Engine(engine.model, engine.processor).images.encode([image])[0]
        for word, image in (("upright", upright), ("stored", stored))
    }
    assert not torch.equal(expected["upright"], expected["stored"])
    for source in (content, Image.open(io.BytesIO(content))):
        for word in ("upright", "stored", "upright"):  # separate cache entries
            features = engine.images.encode([source], word)[0]
            torch.testing.assert_close(features, expected[word])
        torch.testing.assert_close(engine.images.encode([source])[0], expected["upright"])
    both = [mgm.Request("what?", images=[content], orientation=word) for word in expected]
    prepared = engine.prepare(both).images
    assert prepared[0].key != prepared[1].key
    assert engine.prepare(both[:1]).images[0].key == prepared[0].key


def test_default_orientation_of_the_processor(engine, monkeypatch):
    monkeypatch.setattr(engine.processor.image_processor, "orientation", "stored")
    assert engine.images.open(photo()).size == (60, 40)
    assert engine.images.open(photo(), orientation="upright").size == (40, 60)
    features = engine.images.encode([photo()])[0]
    torch.testing.assert_close(features, engine.images.encode([photo()], "stored")[0])


def test_invalid_orientation():
    with pytest.raises(MGMError, match="orientation is 'up'; choose one of upright, stored"):
        mgm.Request("what?", orientation="up")


def test_decoding_limits_of_the_engine(engine):
    fresh = Engine(engine.model, engine.processor)
    assert len(fresh.images.encode([b"P5 2 2 255\n" + bytes(4)])) == 1
    fresh.images.limits = replace(NETWORK_LIMITS, max_pixels=1000)
    for call in (fresh.images.open, lambda content: fresh.images.encode([content])):
        with pytest.raises(MGMError, match="not an image of these formats"):
            call(b"P5 2 2 255\n" + bytes([9] * 4))
        with pytest.raises(MGMError, match=r"is 60 x 40, more than 1,000 pixels"):
            call(photo())


def test_decoding_has_a_shared_memory_budget(engine, monkeypatch):
    fresh = Engine(engine.model, engine.processor)
    fresh.images.limits = replace(NETWORK_LIMITS, max_decoding_bytes=2 * 60 * 40 * 8)
    lock, running, peak = threading.Lock(), 0, 0
    original = decoding.EncodedImage.decode

    def decode(self, orientation):
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        threading.Event().wait(0.02)
        try:
            return original(self, orientation)
        finally:
            with lock:
                running -= 1

    monkeypatch.setattr(decoding.EncodedImage, "decode", decode)
    contents = [photo(number) + bytes([number]) for number in range(1, 9)]
    with ThreadPoolExecutor(8) as pool:
        features = list(
            pool.map(lambda one: fresh.prepare([mgm.Request("?", images=[one])]), contents)
        )
    assert len(features) == 8
    assert peak == 2

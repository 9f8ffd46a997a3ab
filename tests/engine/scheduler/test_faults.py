"""An error in one of eight requests, at every stage, ends that request and does not affect the
others.
"""

from dataclasses import replace

import pytest
import torch
from PIL import Image

import mgm
from mgm import MGMError, Request
from mgm.engine.core.detokenizer import IncrementalDetokenizer
from mgm.engine.core.sampler import Sampler
from mgm.engine.engine import Engine
from mgm.engine.scheduler.config import SchedulerConfig

CULPRIT = 3
BELL = "^"  # a token that only the faulty prompt has
SEED = 666
LONG = "l" * 120  # so that its positions are larger than those of all others


class BrokenMask:
    """A grammar mask that raises at the third token."""

    complete = False

    def __init__(self) -> None:
        self.left = 2

    def bitmask(self) -> bytes:
        if not self.left:
            raise KeyError("mask")
        self.left -= 1
        return b"\xff" * 64

    def accept(self, token: int) -> None:
        pass


def requests(pictures) -> list[Request]:
    red, ring = pictures
    return [
        Request("hi", max_new_tokens=12),
        Request("what is this?", images=[red], max_new_tokens=15),
        Request("draw", images=[ring], temperature=1.0, seed=5, max_new_tokens=12),
        Request(f"bad {BELL}{LONG}", max_new_tokens=14, logprobs=1),
        Request("again", repetition_penalty=1.4, max_new_tokens=12),
        Request("so?", temperature=1.0, top_k=9, seed=7, max_new_tokens=20, logprobs=2),
        Request("what is this?", images=[red], max_new_tokens=5),
        Request("and so on", presence_penalty=1.0, max_new_tokens=9),
    ]


def watch_forward(engine, monkeypatch, change) -> None:
    """Call `change` with each forward pass of the language model and its output."""
    original = engine.model.language_model.forward

    def forward(*args, **kwargs):
        change(kwargs, None)
        output = original(*args, **kwargs)
        change(kwargs, output)
        return output

    monkeypatch.setattr(engine.model.language_model, "forward", forward)


def break_tokenizer(engine, monkeypatch, request):
    original = engine.processor.encode

    def encode(text, *args, **kwargs):
        if BELL in text:
            raise RuntimeError("tokenizer")
        return original(text, *args, **kwargs)

    monkeypatch.setattr(engine.processor, "encode", encode)
    return request


def break_image(engine, monkeypatch, request):
    return replace(request, images=[b"no image"])


def break_vision(engine, monkeypatch, request):
    original = engine.model.get_image_features

    def see(pixel_values_aux, **kwargs):
        if bool((pixel_values_aux == 255).all()):
            raise RuntimeError("vision")
        return original(pixel_values_aux=pixel_values_aux, **kwargs)

    monkeypatch.setattr(engine.model, "get_image_features", see)
    return replace(request, images=[Image.new("RGB", (64, 64), "white")])


def break_prefill(engine, monkeypatch, request):
    bell = engine.processor.encode(BELL)[-1]
    row = engine.model.get_input_embeddings().weight[bell]

    def change(given, output):
        embeddings = given.get("inputs_embeds")
        if output is None and embeddings is not None and (embeddings == row).all(-1).any():
            raise RuntimeError("prefill")

    watch_forward(engine, monkeypatch, change)
    return request


def spoil_prompt(engine, monkeypatch, request):
    """Set the embedding of a unique token to NaN, so that its keys and values are NaN."""
    bell = engine.processor.encode(BELL)[-1]
    with torch.no_grad():
        engine.model.get_input_embeddings().weight[bell] = torch.nan
    return request


def at_long_row(given) -> torch.Tensor | None:
    """The rows of the faulty request in a decode step."""
    if given.get("input_ids") is None:
        return None
    rows = given["position_ids"].amax(-1) > len(LONG) + 6
    return rows if rows.any() else None


def break_decode(engine, monkeypatch, request):
    def change(given, output):
        if output is None and at_long_row(given) is not None:
            raise RuntimeError("decode")

    watch_forward(engine, monkeypatch, change)
    return request


def spoil_decode(engine, monkeypatch, request):
    def change(given, output):
        rows = at_long_row(given)
        if output is not None and rows is not None:
            output.logits[rows] = -torch.inf

    watch_forward(engine, monkeypatch, change)
    return request


def break_sampler(engine, monkeypatch, request):
    original = Sampler.draw_uniform

    def draw_uniform(self):
        if self.params.seed == SEED:
            raise RuntimeError("sampler")
        return original(self)

    monkeypatch.setattr(Sampler, "draw_uniform", draw_uniform)
    return replace(request, temperature=1.0, seed=SEED)


def break_detokenizer(engine, monkeypatch, request):
    original = IncrementalDetokenizer.append

    def append(self, token):
        if BELL in self._stop_strings and len(self._ids) == 2:
            raise RuntimeError("detokenizer")
        original(self, token)

    monkeypatch.setattr(IncrementalDetokenizer, "append", append)
    return replace(request, stop=[BELL])


def break_end_of_text(engine, monkeypatch, request):
    original = IncrementalDetokenizer.finish

    def finish(self):
        if BELL in self._stop_strings:
            raise RuntimeError("end of text")
        original(self)

    monkeypatch.setattr(IncrementalDetokenizer, "finish", finish)
    return replace(request, stop=[BELL])


def break_mask(engine, monkeypatch, request):
    original = engine._preparer.grammar

    def mask(batch, label):
        return BrokenMask() if BELL in batch.prompt else original(batch, label)

    monkeypatch.setattr(engine._preparer, "grammar", mask)
    return request


def break_bias(engine, monkeypatch, request):
    """Ban every token."""
    return replace(request, logit_bias=dict.fromkeys(range(engine._preparer._num_tokens), -100))


def break_listener(engine, monkeypatch, request):
    return request


STAGES = {
    break_tokenizer: "tokenizer",
    break_image: "image",
    break_vision: "vision",
    break_prefill: "RuntimeError: prefill",
    spoil_prompt: "non-finite logits",
    break_decode: "RuntimeError: decode",
    spoil_decode: "non-finite logits",
    break_sampler: "RuntimeError: sampler",
    break_detokenizer: "RuntimeError: detokenizer",
    break_end_of_text: "RuntimeError: end of text",
    break_mask: "KeyError: 'mask'",
    break_bias: "logit_bias bans every token",
    break_listener: "RuntimeError: listener",
}


@pytest.fixture(scope="module")
def alone(tiny_folder, pictures):
    """The answer to each request on its own."""
    batch = requests(pictures)
    return [mgm.load(tiny_folder, device="cpu").answer([one])[0] for one in batch]


@pytest.mark.parametrize("chunk_size", [512, 7])
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_other_requests_are_not_affected(engine, monkeypatch, pictures, alone, stage, chunk_size):
    batch = requests(pictures)
    config = SchedulerConfig(max_prefill_tokens=chunk_size)
    engine = Engine(engine.model, engine.processor, scheduler_config=config)
    batch[CULPRIT] = stage(engine, monkeypatch, batch[CULPRIT])
    streams, faults = {}, {}
    for number, request in enumerate(batch):
        try:
            if stage is break_listener and number == CULPRIT:
                (streams[number],) = engine.subscribe([request], raising)
            else:
                streams[number] = engine.stream(request)
        except (MGMError, RuntimeError) as error:
            faults[number] = error
    while engine.scheduler.busy:
        engine.scheduler.step()
    for number, stream in streams.items():
        try:
            assert stream.ended
            assert stream.answer == alone[number]
            same = stream.answer.sampled_tokens == alone[number].sampled_tokens
            assert same or batch[number].logprobs
        except MGMError as error:
            faults[number] = error
    assert list(faults) == [CULPRIT]
    assert STAGES[stage] in str(faults[CULPRIT])
    assert not engine.scheduler._kv_cache.lengths


def raising(index, chunk) -> None:
    raise RuntimeError("listener")


@pytest.mark.parametrize("stage", [break_prefill, spoil_prompt, spoil_decode, break_decode])
def test_faulty_requests_are_not_cached(engine, monkeypatch, pictures, stage):
    request = stage(engine, monkeypatch, requests(pictures)[CULPRIT])
    (sequence,) = engine._preparer.sequences(engine.prepare([request]))
    with pytest.raises(MGMError):
        engine.answer([request])
    cached_length = engine.scheduler.prefix_cache.match_length(
        sequence.token_keys, engine.model.dtype
    )
    if stage in (spoil_decode, break_decode):  # the prompt was valid
        assert cached_length == len(sequence.token_keys) - 1
        return
    assert not cached_length
    assert not any(
        bool(layer.keys.isnan().any())
        for layer in engine.scheduler._kv_cache.layers
        if layer.keys is not None
    )


def test_nan_does_not_spread_in_a_shared_row(engine, monkeypatch, pictures):
    """Suffixes are masked from one another, but 0 times NaN would spread."""
    texts = ["what is a?", f"what is {BELL}?", "what else?"]
    batch = [Request(text, images=pictures, max_new_tokens=6) for text in texts]
    expected = [Engine(engine.model, engine.processor).answer([one])[0] for one in batch]
    spoil_prompt(engine, monkeypatch, batch[1])
    streams = [engine.stream(one) for one in batch]
    while engine.scheduler.busy:
        engine.scheduler.step()
    assert [streams[number].answer for number in (0, 2)] == [expected[0], expected[2]]
    with pytest.raises(MGMError, match="non-finite"):
        list(streams[1])


@pytest.mark.parametrize("what", [torch.nan, torch.inf])
def test_damaged_weights_end_all_requests_with_an_error(engine, what):
    with torch.no_grad():
        engine.model.get_output_embeddings().weight[7] = what
    for beams in (1, 2):
        with pytest.raises(MGMError, match="non-finite logits"):
            engine.answer([Request("hi", max_new_tokens=3, num_beams=beams)])


def test_failing_beam_search_ends_one_request(engine, monkeypatch):
    other = engine.stream(Request("hi", max_new_tokens=9))
    next(other)
    original = engine.model.generate

    def generate(*args, **kwargs):
        raise RuntimeError("beams")

    monkeypatch.setattr(engine.model, "generate", generate)
    with pytest.raises(MGMError, match="RuntimeError: beams"):
        engine.answer([Request("hi", num_beams=2)])
    monkeypatch.setattr(engine.model, "generate", original)
    list(other)
    expected = Engine(engine.model, engine.processor).answer([Request("hi", max_new_tokens=9)])[0]
    assert other.answer == expected


def test_device_error_ends_all_requests(engine, monkeypatch):
    streams = [engine.stream(Request(text, max_new_tokens=9)) for text in ("hi", "you")]
    for stream in streams:
        next(stream)

    def change(given, output):
        raise torch.AcceleratorError("device-side assert")

    watch_forward(engine, monkeypatch, change)
    with pytest.raises(torch.AcceleratorError):
        list(streams[0])
    with pytest.raises(MGMError, match="device-side assert"):
        list(streams[1])


def test_out_of_memory_retries_prompts_one_by_one(engine, monkeypatch):
    batch = [Request(text, max_new_tokens=4) for text in ("hi", "you", "there")]
    expected = [Engine(engine.model, engine.processor).answer([one])[0] for one in batch]

    def change(given, output):
        embeddings = given.get("inputs_embeds")
        if embeddings is not None and len(embeddings) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    watch_forward(engine, monkeypatch, change)
    assert engine.answer(batch) == expected


@pytest.mark.parametrize("raw", [True, False])
def test_empty_prompt(engine, monkeypatch, raw):
    if not raw:
        monkeypatch.setattr(engine.processor, "encode", lambda text: [])
    with pytest.raises(MGMError, match="the prompt is empty"):
        engine.stream(Request("", raw=raw))


@pytest.mark.parametrize("field", ["prompt", "system", "stop", "history"])
def test_lone_surrogates_are_rejected(field):
    half = "a\ud83d"
    value = {"stop": [half], "history": [(half, "b")]}.get(field, half)
    with pytest.raises(MGMError, match=f"{field} has a lone surrogate"):
        Request(**{"prompt": "hi"} | {field: value})

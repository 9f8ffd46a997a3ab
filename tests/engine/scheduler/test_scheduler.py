"""Continuous batching: sequences join and leave, and cached work is not repeated."""

import random
import threading
import time
from dataclasses import replace

import pytest
import torch

import mgm
from mgm import MGMError, Request
from mgm.engine.core.sequence import Chunk
from mgm.engine.engine import Engine, Stream
from mgm.engine.kv_cache.layer_kv import slice_kv
from mgm.engine.kv_cache.memory import kv_bytes_per_token
from mgm.engine.scheduler.config import SchedulerConfig
from mgm.engine.scheduler.scheduler import Scheduler
from tests.tiny_model import build


def questions(pictures) -> list[Request]:
    red, ring = pictures
    return [
        Request("hi", max_new_tokens=20),
        Request("what is this?", images=[red], max_new_tokens=33),
        Request("compare them", images=[ring, red], max_new_tokens=7),
        Request("and so on and so on?", max_new_tokens=3),
        Request("sure?", images=[red], history=[("what is this?", "red")], max_new_tokens=25),
        Request("draw", images=[ring], temperature=1.0, top_k=9, seed=5, max_new_tokens=20),
        Request("again", repetition_penalty=1.4, max_new_tokens=20),
    ]


def configured(engine: Engine, **settings: int | bool) -> Engine:
    """An engine of the same model with other scheduler settings."""
    config = SchedulerConfig(**settings)
    return Engine(engine.model, engine.processor, scheduler_config=config)


def watch_calls(engine, monkeypatch, tell) -> None:
    """Record rows, positions and input of each forward pass of the language model."""
    original = engine.model.language_model.forward

    def watched(*args, **kwargs):
        given = kwargs.get("inputs_embeds")
        size = (kwargs["input_ids"] if given is None else given).shape[:2]
        tell(tuple(size), "answers" if given is None else "prompts")
        return original(*args, **kwargs)

    monkeypatch.setattr(engine.model.language_model, "forward", watched)


def count_tokens_read(engine, monkeypatch) -> list[int]:
    """Record the positions of each forward pass with one row."""
    seen: list[int] = []
    watch_calls(engine, monkeypatch, lambda size, _: seen.append(size[1]))
    return seen


def count_calls_of_prompts(engine, monkeypatch) -> list[tuple[int, int]]:
    """Record rows and positions of each prefill."""
    calls: list[tuple[int, int]] = []

    def tell(size: tuple[int, int], what: str) -> None:
        if what == "prompts":
            calls.append(size)

    watch_calls(engine, monkeypatch, tell)
    return calls


@pytest.mark.parametrize("chunk_size", [512, 7])
def test_joining_and_leaving_does_not_change_answers(engine, tiny_folder, pictures, chunk_size):
    requests = questions(pictures)
    alone = [mgm.load(tiny_folder, device="cpu").answer([request])[0] for request in requests]
    engine = configured(engine, max_prefill_tokens=chunk_size)
    draw = random.Random(0)
    streams, texts, left = [], {}, list(range(len(requests)))
    draw.shuffle(left)
    while left or streams:
        if left and draw.random() < 0.3:
            number = left.pop()
            streams.append((number, engine.stream(requests[number])))
            texts[number] = ""
        for number, stream in list(streams):
            text = next(stream, None)
            if text is None:
                assert stream.answer == alone[number]
                streams.remove((number, stream))
            else:
                texts[number] += text
    assert [texts[number] for number in range(len(requests))] == [answer.text for answer in alone]
    assert not engine.scheduler.busy


def test_more_requests_than_max_num_seqs(engine, pictures):
    engine = configured(engine, max_num_seqs=2)
    requests = questions(pictures)
    together = engine.answer(requests)
    assert together == [engine.answer([request])[0] for request in requests]


def test_kv_cache_bytes_limit_the_batch(engine, pictures):
    requests = questions(pictures)
    expected = Engine(engine.model, engine.processor).answer(requests)
    text = engine.model.config.text_config
    position = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * 4
    assert kv_bytes_per_token(engine.model) == position
    kv_cache_bytes = 2 * 80 * position  # memory for two answers of about 80 positions
    engine = configured(engine, kv_cache_bytes=kv_cache_bytes)
    largest = 0
    original = engine.scheduler.step

    def step() -> None:
        nonlocal largest
        original()
        together = engine.scheduler.running
        widest = max((one.max_length for one in together), default=0)
        assert len(together) * widest * position <= kv_cache_bytes
        largest = max(largest, len(together))

    engine.scheduler.step = step
    assert engine.answer(requests) == expected
    assert largest in (2, 3)
    assert not engine.scheduler._kv_cache.lengths
    assert (
        configured(engine, kv_cache_bytes=1).answer(requests) == expected
    )  # a single sequence always fits


def test_engine_is_thread_safe(engine, tiny_folder, pictures):
    requests = questions(pictures) * 3
    expected = mgm.load(tiny_folder, device="cpu").answer(requests)
    texts: dict[int, str] = {}

    def ask(number: int) -> None:
        texts[number] = "".join(engine.stream(requests[number]))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [texts[number] for number in range(len(requests))] == [one.text for one in expected]


def test_long_prompts_are_prefilled_in_chunks(engine, monkeypatch):
    engine = configured(engine, max_prefill_tokens=16)
    short = engine.stream(Request("hi", max_new_tokens=40))
    next(short)
    read = count_tokens_read(engine, monkeypatch)
    long = engine.stream(Request("x" * 200, max_new_tokens=1))
    list(long)
    prompt = len(engine.processor.encode(engine.prompt(Request("x" * 200))))
    assert read.count(16) == prompt // 16
    # Between two chunks of one prompt, the other request gets a token.
    assert read[1:8:2] == [1, 1, 1, 1]
    short.close()


def test_short_prompts_are_batched(engine, pictures, monkeypatch):
    """One forward pass, with different lengths and cached prefixes."""
    engine.answer([Request("what is this?", images=pictures[:1], max_new_tokens=2)])
    requests = [
        Request("hi you", max_new_tokens=9),
        Request("what is that?", images=pictures[:1], max_new_tokens=9),
        Request("and so", max_new_tokens=9),
    ]
    expected = [Engine(engine.model, engine.processor).answer([one])[0] for one in requests]
    calls = count_calls_of_prompts(engine, monkeypatch)
    assert engine.answer(requests) == expected
    assert len(calls) == 1
    assert calls[0][0] == 3


def test_questions_about_an_image_share_its_prefix(engine, pictures):
    texts = ("a?", "bc", "d?")
    requests = [Request(text, images=[pictures[1]], max_new_tokens=5) for text in texts]
    expected = [Engine(engine.model, engine.processor).answer([one])[0] for one in requests]
    answers = engine.answer(requests)
    assert answers == expected
    image = engine.processor.image_tokens_per_image
    assert [one.cached_tokens > image for one in answers] == [False, True, True]


def test_questions_about_an_image_are_one_row(engine, pictures, monkeypatch):
    """With a cached prefix, a shared prefix beyond the image, and a duplicate request."""
    engine.answer([Request("", images=pictures[1:], max_new_tokens=1)])
    texts = ("what is a?", "what is this long one?", "what is a?", "what else?")
    requests = [Request(text, images=pictures[1:] * 9, max_new_tokens=5) for text in texts]
    requests.insert(2, Request("no image, but a prompt of some length", max_new_tokens=6))
    expected = [Engine(engine.model, engine.processor).answer([one])[0] for one in requests]
    calls = count_calls_of_prompts(engine, monkeypatch)
    assert engine.answer(requests) == expected
    assert [rows for rows, _ in calls] == [2]
    # Finished sequences are cached to their ends.
    calls.clear()
    again = engine.answer(requests)
    assert again == expected
    assert sum(one.prompt_tokens - one.cached_tokens for one in again) == len(requests)


def test_shared_row_must_fit_the_kv_cache(engine, pictures, monkeypatch):
    requests = [
        Request(f"{number}" * 25, images=pictures * 5, max_new_tokens=3) for number in range(3)
    ]
    expected = [Engine(engine.model, engine.processor).answer([one])[0] for one in requests]
    widest = max(one.prompt_tokens for one in expected) + 3
    kv_cache_bytes = 3 * (widest + 30) * kv_bytes_per_token(engine.model)
    engine = configured(engine, kv_cache_bytes=kv_cache_bytes)
    calls = count_calls_of_prompts(engine, monkeypatch)
    assert engine.answer(requests) == expected
    # Two fit in a row of their own length and 30 more, three do not.
    rows, positions = calls[0]
    assert rows == 1
    assert expected[0].prompt_tokens + 25 < positions <= widest + 30


def test_cached_prefix_may_end_within_an_image(engine, pictures):
    request = Request("compare them", images=pictures, max_new_tokens=9)
    expected = engine.answer([request])[0]
    sequence = engine._preparer.sequences(engine.prepare([request]))[0]
    ids, image = sequence.prompt_ids, engine.model.config.image_token_id
    parts = engine.scheduler.prefix_cache.match_prefix(sequence.token_keys, engine.model.dtype)
    whole = [
        tuple(torch.cat([layers[number][side] for layers in parts], dim=2) for side in (0, 1))
        for number in range(len(parts[0]))
    ]
    last = len(ids) - 1 - ids[::-1].index(image)
    for cached_length in (last + 1, last, ids.index(image) + 1, ids.index(image), 3):
        other = Engine(engine.model, engine.processor)
        other.scheduler.prefix_cache.insert(
            sequence.token_keys[:cached_length],
            engine.model.dtype,
            lambda start, cached_length=cached_length: slice_kv(whole, start, cached_length),
        )
        answer = other.answer([request])[0]
        assert answer.cached_tokens == cached_length
        assert answer.tokens == expected.tokens


@pytest.mark.parametrize("chunk_size", [512, 7])
def test_prefill_first(engine, pictures, chunk_size):
    requests = questions(pictures)
    expected = Engine(engine.model, engine.processor).answer(requests)
    engine = configured(engine, max_prefill_tokens=chunk_size, prefill_first=True, max_num_seqs=4)
    streams = engine.streams(requests)
    engine.scheduler.step()
    assert len(engine.scheduler.running) == 4
    assert ["".join(stream) for stream in streams] == [one.text for one in expected]


@pytest.mark.parametrize("name", ["max_num_seqs", "max_prefill_tokens"])
def test_settings_must_be_positive(name):
    with pytest.raises(MGMError, match=f"{name} is 0; give a number from 1"):
        SchedulerConfig(**{name: 0})


@pytest.mark.parametrize("enough", [True, False])
def test_small_kv_memory_is_kept_for_reuse(engine, pictures, enough):
    requests = questions(pictures)
    expected = Engine(engine.model, engine.processor).answer(requests)
    engine = configured(engine, kv_cache_bytes=2**32 if enough else 2**16)
    rows = engine.scheduler._kv_cache
    engine.scheduler.prefix_cache.capacity = 0  # else less would be prefilled the second time
    assert [one.text for one in engine.answer(requests)] == [one.text for one in expected]
    assert rows.lengths == []
    kept = [layer.keys for layer in rows.layers]
    assert all((part is not None) == enough for part in kept)
    assert [one.text for one in engine.answer(requests)] == [one.text for one in expected]
    if enough:
        assert all(old is new.keys for old, new in zip(kept, rows.layers, strict=True))


def test_prefix_cache_ignores_other_dtypes(engine, pictures):
    """Prefixes that were cached in one dtype are not used in another."""
    requests = questions(pictures)
    engine.answer(requests)
    engine.model.double()
    expected = Engine(engine.model, engine.processor).answer(requests)
    assert engine.answer(requests) == expected


def test_second_turn_prefills_new_tokens_only(engine, pictures, monkeypatch):
    first = Request("what is this?", images=pictures, max_new_tokens=9)
    answer = engine.answer([first])[0]
    assert answer.cached_tokens == 0
    second = Request(
        "sure?", images=pictures, history=[(first.prompt, answer.text)], max_new_tokens=9
    )
    expected = Engine(engine.model, engine.processor).answer([second])[0]
    read = count_tokens_read(engine, monkeypatch)
    again = engine.answer([second])[0]
    assert again == expected
    # All of the first prompt and answer, except where text and tokens differ.
    assert again.cached_tokens >= answer.prompt_tokens
    assert read[0] == again.prompt_tokens - again.cached_tokens
    assert engine.scheduler.prefix_cache.hits == again.cached_tokens


def test_other_images_do_not_match_the_prefix_cache(engine, tiny_folder, pictures):
    red, ring = pictures
    engine.answer([Request("what is this?", images=[red], max_new_tokens=5)])
    other = Request("what is this?", images=[ring], max_new_tokens=15)
    answer = engine.answer([other])[0]
    assert answer == mgm.load(tiny_folder, device="cpu").answer([other])[0]
    image_begins = engine.processor.encode(engine.prompt(other)).index(
        engine.processor.image_token_id
    )
    assert answer.cached_tokens == image_begins


def test_prefix_cache_is_bounded(engine, pictures):
    engine.answer([Request("hi", max_new_tokens=2)])
    one = engine.scheduler.prefix_cache.nbytes
    engine.scheduler.prefix_cache.capacity = 3 * one
    for number in range(20):
        engine.answer([Request(f"{number} hi", max_new_tokens=2)])
        assert engine.scheduler.prefix_cache.nbytes <= 3 * one
    assert engine.scheduler.prefix_cache.nbytes >= one
    engine.answer(
        [Request("what?", images=pictures, max_new_tokens=2)]
    )  # larger than the capacity by itself
    assert engine.scheduler.prefix_cache.nbytes <= 3 * one


def test_cancelled_requests_free_their_rows(engine, pictures):
    requests = questions(pictures)
    streams = [engine.stream(request) for request in requests]
    next(streams[0])
    streams[0].close()
    streams[2].close()  # while it waits
    streams[3].close()
    assert [streams[n].answer.finish_reason for n in (0, 2, 3)] == ["cancelled"] * 3
    assert list(streams[2]) == []
    alone = Engine(engine.model, engine.processor)
    assert "".join(streams[1]) == alone.answer([requests[1]])[0].text
    del streams  # a dropped stream frees its row
    assert engine.answer([requests[4]])[0] == alone.answer([requests[4]])[0]
    assert not engine.scheduler.busy


def test_interpreter_may_exit_within_a_stream(engine, monkeypatch):
    """At interpreter exit there is no thread left for cancelling."""
    stream = engine.stream(Request("hi", max_new_tokens=20))
    next(stream)
    submitted: list[object] = []
    monkeypatch.setattr(engine._core, "run_soon", submitted.append)
    with monkeypatch.context() as ending:
        ending.setattr("sys.is_finalizing", lambda: True)
        stream.__del__()
        assert not submitted
    stream.__del__()
    assert submitted


def test_max_seconds(engine):
    answer = engine.answer([Request("hi", max_new_tokens=500, max_seconds=0)])[0]
    assert (answer.finish_reason, len(answer.tokens)) == ("length", 1)


def test_error_of_a_step_ends_requests_but_not_the_engine(engine, monkeypatch):
    streams = [engine.stream(Request(text, max_new_tokens=30)) for text in ("hi", "you")]
    for stream in streams:
        next(stream)
    original = engine.model.language_model.forward

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine.model.language_model, "forward", full)
    for stream in streams:
        with pytest.raises(MGMError, match="ran out of memory with 2 running sequences"):
            list(stream)
    monkeypatch.setattr(engine.model.language_model, "forward", original)
    assert engine.answer([Request("hi", max_new_tokens=3)])[0].tokens


@pytest.mark.parametrize("beams", [2, 5])
def test_beam_search_equals_transformers(engine, pictures, beams):
    request = Request("what is this?", images=pictures, max_new_tokens=12, num_beams=beams)
    inputs = engine.processor(text=engine.prompt(request), images=pictures)
    ids = engine.model.generate(**inputs, max_new_tokens=12, do_sample=False, num_beams=beams)
    written = ids[0, inputs["input_ids"].shape[1] :].tolist()
    assert list(engine.answer([request])[0].tokens) == [
        token for token in written if token not in engine._preparer.prompts.stop_criteria.token_ids
    ]
    assert "".join(engine.stream(request)) == engine.answer([request])[0].text


def test_beam_search_returns_the_best_at_max_seconds(engine, monkeypatch):
    original = engine.model.language_model.forward

    def slow(*args, **kwargs):
        time.sleep(0.02)
        return original(*args, **kwargs)

    monkeypatch.setattr(engine.model.language_model, "forward", slow)
    request = Request("what?", max_new_tokens=100, num_beams=3)
    whole = engine.answer([request])[0]
    assert len(whole.tokens) > 25
    answer = engine.answer([replace(request, max_seconds=0.4)])[0]
    assert 1 < len(answer.tokens) < 25
    assert answer.finish_reason == "length"


MISTRAL = {"model_type": "mistral", "sliding_window": 12}
QWEN_3 = {
    "model_type": "qwen3",
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 12,
    "use_sliding_window": True,
    "max_window_layers": 1,
}
GEMMA_2 = {"model_type": "gemma2", "sliding_window": 12, "query_pre_attn_scalar": 8, "head_dim": 8}


windows = pytest.mark.parametrize(
    ("text", "attention"),
    [(MISTRAL, "sdpa"), (MISTRAL, "eager"), (QWEN_3, "sdpa"), (GEMMA_2, "eager")],
    ids=["mistral", "mistral, eager", "qwen3", "gemma2"],
)


@windows
def test_sliding_windows_and_attention_implementations(tmp_path, pictures, text, attention):
    """The tokens equal those of transformers' `generate`."""
    folder = build(tmp_path / "model", **text)
    engine = mgm.load(folder, device="cpu", attention=attention)
    requests = [
        Request("what is this?", images=[picture], max_new_tokens=20) for picture in pictures
    ]
    requests += [
        replace(requests[0], prompt=f"what is {text}?") for text in ("that", "a ring or a dot")
    ]
    requests.append(Request("a longer question without any image at all?", max_new_tokens=20))
    for request, answer in zip(requests, engine.answer(requests), strict=True):
        images = list(request.images) or None
        inputs = engine.processor(text=engine.prompt(request), images=images)
        ids = engine.model.generate(**inputs, max_new_tokens=20, do_sample=False)
        written = ids[0, inputs["input_ids"].shape[1] :].tolist()
        stop_ids = engine._preparer.prompts.stop_criteria.token_ids
        assert list(answer.tokens) == [t for t in written if t not in stop_ids]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "qwen3"])
def test_compiled_steps_equal_eager_ones(tmp_path, pictures, kind):
    """Other numbers of rows and columns do not recompile."""
    folder = build(tmp_path / "model", **({} if kind == "plain" else QWEN_3))
    expected = mgm.load(folder, device="cpu").answer(questions(pictures))
    engine = mgm.load(folder, device="cpu")
    torch._dynamo.reset()
    engine.compile_decode(backend="eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert engine.answer(questions(pictures)) == expected
        assert engine.answer(questions(pictures)[1:2]) == expected[1:2]
        assert engine.answer([Request("and on " * 60, max_new_tokens=2)])[0].tokens  # more columns


def test_unsupported_cache_types_are_rejected(engine):
    engine.model.config.text_config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(MGMError, match="layers of kind linear_attention"):
        Scheduler(engine.model, SchedulerConfig())


def test_many_sequences_of_a_request_do_not_block_others(engine):
    engine = configured(engine, max_num_seqs=2)
    ban = dict.fromkeys(engine.processor.tokenizer.all_special_ids, -100.0)
    done: list[str] = []
    streams: list[Stream] = []  # which would end if nobody referred to them

    def ask(name: str, count: int) -> None:
        requests = [Request(name, max_new_tokens=5, logit_bias=ban) for _ in range(count)]

        def listener(_: int, chunk: Chunk) -> None:
            if chunk.answer is not None:
                done.append(name)

        streams.extend(engine.subscribe(requests, listener))

    ask("many", 10)
    engine.scheduler.step()
    for number in range(4):
        ask(f"one {number}", 1)
    ask("two", 2)
    while engine.scheduler.busy:
        engine.scheduler.step()
    singles = [done.index(f"one {number}") for number in range(4)]
    assert singles == sorted(singles)
    assert singles[-1] < 8
    assert done.index("two") < 9
    assert done.count("many") == 10
    # Nor are they starved: some are answered between later requests.
    assert "many" in done[: singles[-1]]

"""N-gram drafts, and that they do not change answers."""

import random

import pytest
import torch

import mgm
from mgm import MGMError, Request
from mgm.engine.scheduler import ngram_drafter
from mgm.engine.scheduler.ngram_drafter import Draft, NGramDrafter
from tests.engine.scheduler.test_scheduler import count_tokens_read, questions, windows
from tests.tiny_model import build

END = 99  # the stop token
DRAFT_TOKENS = 8


@pytest.fixture
def engine(tiny_folder):
    """An engine with speculative decoding."""
    return mgm.load(tiny_folder, device="cpu", num_speculative_tokens=DRAFT_TOKENS)


def taught(*answers: list[int], max_tokens: int = 4) -> NGramDrafter:
    drafter = NGramDrafter(max_tokens)
    for answer in answers:
        drafter.update([*answer, END], len(answer) + 1)
    return drafter


def test_drafts_repeat_earlier_outputs():
    drafter = taught(*[[1, 2, 3, 4, 5, 6, 7]] * 9)
    assert drafter.propose([1, 2], 9).tokens == (3, 4, 5, 6)  # the usual length
    assert drafter.propose([1, 2], 2).tokens == (3, 4)  # limited by the remaining tokens
    assert drafter.propose([9, 8, 1, 2], 1).tokens == (3,)
    assert drafter.propose([5, 6], 9, stop_ids={END}).tokens == (7,)  # the answer ended there
    assert drafter.propose([1, 2], 9, stop_ids={5}).tokens == (3, 4)
    assert drafter.propose([9, 2], 9).tokens == ()  # one token is not enough
    assert drafter.propose([], 9).tokens == ()


def test_unlikely_tokens_are_not_drafted():
    once = taught([1, 2, 3, 4, 5, 6, 7]).propose([1, 2], 9, stop_ids={END})
    assert once == Draft((3, 4, 5), (1 / 2, 1 / 4, 1 / 8))
    half = taught(*[[1, 2, 3, 5, 5]] * 9, *[[1, 2, 4, 6, 6]] * 8)
    assert half.propose([1, 2], 9, stop_ids={END}).tokens == (3, 5, 5)
    assert taught(*[[1, 2, n] for n in range(3, 13)]).propose([1, 2], 9).tokens == ()


def test_longer_matches_are_preferred():
    drafter = taught(*[[8, 1, 2, 3]] * 9, *[[9, 1, 2, 4]] * 5)
    assert drafter.propose([9, 1, 2], 1).tokens == (4,)
    assert drafter.propose([7, 1, 2], 1).tokens == (3,)


def test_only_new_tokens_are_counted():
    drafter = NGramDrafter(DRAFT_TOKENS)
    drafter.update([1, 2, 3, 4], 1)
    assert drafter.propose([1, 2], 1).tokens == ()
    assert drafter.propose([2, 3], 1).tokens == (4,)
    drafter.update([5, 6], 9)  # all of them, with draft tokens at the end
    assert drafter.propose([5, 6], 1).tokens == ()


def test_draft_length_follows_acceptance():
    drafter = NGramDrafter(DRAFT_TOKENS)
    sure, unsure = Draft((1, 2, 3), (0.9, 0.8, 0.7)), Draft((4,), (0.2,))
    none = Draft()
    assert drafter.truncate_to_throughput([sure]) == [sure]
    assert drafter.truncate_to_throughput([unsure]) == [unsure]  # cheap for a single sequence
    assert drafter.truncate_to_throughput([unsure] * 40) == [none] * 40
    # A draft of one of many rows widens all of them.
    assert drafter.truncate_to_throughput([sure, *[none] * 29]) == [none] * 30
    assert drafter.truncate_to_throughput([*[sure] * 9, unsure]) == [*[sure] * 9, unsure]
    long = Draft((1, 2, 3, 4), (0.9, 0.8, 0.7, 0.1))  # the last token is not worth a longer step
    assert drafter.truncate_to_throughput([long] * 9) == [sure] * 9


def test_acceptance_rate_decays():
    """Recent rejections lower the acceptance rate, until they have decayed."""
    drafter = taught(*[[1, 2, 3]] * 9)
    at_first = drafter.propose([1, 2], 1)
    for _ in range(30):
        drafter.record_acceptance([at_first], 0)
    assert drafter.propose([1, 2], 1).probabilities[0] < at_first.probabilities[0] / 3
    for _ in range(500):
        drafter.record_acceptance([Draft()], 0)
    assert drafter.propose([1, 2], 1).probabilities[0] == pytest.approx(
        at_first.probabilities[0], rel=0.1
    )
    for _ in range(30):
        drafter.record_acceptance([at_first], 1)
    assert drafter.propose([1, 2], 1).probabilities[0] == pytest.approx(1, abs=0.1)
    assert (drafter.num_draft_tokens, drafter.num_accepted_tokens) == (60, 30)


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(ngram_drafter, "MAX_NGRAMS", 50)
    drafter = NGramDrafter(DRAFT_TOKENS)
    for number in range(200):
        drafter.update([number, 1, 2, 3], 2)
    drafter.update([7] * 100, 100)
    assert len(drafter._ngrams) == 50
    assert drafter.propose([7, 7], 9).tokens == (7,) * DRAFT_TOKENS
    many = NGramDrafter(DRAFT_TOKENS)
    for number in [*range(100), *[1000] * 150]:
        many.update([1, 2, number], 1)
    (counts,) = many._ngrams.values()
    assert len(counts.counts) == ngram_drafter.MAX_CONTINUATIONS
    assert counts.top_token() == (1000, 150 / 251)  # of all inserted tokens


def test_zero_and_too_few_tokens():
    assert taught(*[[1, 2, 3]] * 9, max_tokens=0).propose([1, 2], 9) == Draft()
    with pytest.raises(MGMError, match="num_speculative_tokens is -1; give 0"):
        NGramDrafter(-1)


def spoil(engine, how: str) -> None:
    """Make drafts wrong: all tokens, the last ones, or some, for all lengths."""
    draw = random.Random(0)
    drafter = engine.scheduler.drafter
    original = drafter.propose
    words = engine.model.config.text_config.vocab_size

    def propose(context, max_tokens, stop_ids):
        right = original(context, max_tokens, stop_ids).tokens
        if how == "end":
            return Draft(right[:-1] + tuple((token + 1) % words for token in right[-1:]))
        if how == "some" and draw.random() < 0.5:
            return Draft(right)
        count = min(max_tokens, 4 if how == "all" else draw.randint(0, DRAFT_TOKENS))
        return Draft(tuple(draw.randrange(words) for _ in range(max(count, 0))))

    drafter.propose = propose
    drafter.truncate_to_throughput = lambda drafts: drafts  # all drafts are verified


@pytest.mark.parametrize("how", ["none", "all", "end", "some"])
def test_drafts_do_not_change_answers(tiny_folder, pictures, how):
    requests = questions(pictures)
    expected = mgm.load(tiny_folder, device="cpu").answer(requests)
    engine = mgm.load(tiny_folder, device="cpu", num_speculative_tokens=DRAFT_TOKENS)
    if how != "none":
        spoil(engine, how)
    for _ in range(2):  # earlier outputs are drafted the second time
        assert [one.tokens for one in engine.answer(requests)] == [one.tokens for one in expected]
    assert not engine.scheduler.busy
    drafter = engine.scheduler.drafter
    drafted, accepted = drafter.num_draft_tokens, drafter.num_accepted_tokens
    assert drafted > 50
    shares = {"none": (0.5, 1), "all": (0, 0.1), "end": (0.3, 0.9), "some": (0.1, 0.9)}
    assert shares[how][0] <= accepted / drafted <= shares[how][1]


@windows
def test_sliding_windows_with_drafts(tmp_path, pictures, text, attention):
    folder = build(tmp_path / "model", **text)
    requests = questions(pictures)
    chosen = {"device": "cpu", "attention": attention}
    expected = mgm.load(folder, **chosen).answer(requests)
    engine = mgm.load(folder, **chosen, num_speculative_tokens=DRAFT_TOKENS)
    spoil(engine, "some")
    for _ in range(2):
        assert [one.tokens for one in engine.answer(requests)] == [one.tokens for one in expected]
    drafter = engine.scheduler.drafter
    assert 0 < drafter.num_accepted_tokens < drafter.num_draft_tokens


def test_accepted_drafts_save_steps(engine, monkeypatch):
    request = Request("hi", max_new_tokens=40)
    read = count_tokens_read(engine, monkeypatch)
    first = engine.answer([request])[0]
    assert len(first.tokens) == 40
    read.clear()
    assert engine.answer([request])[0].tokens == first.tokens
    assert len(read) < 15
    assert 1 < max(read) <= 9


def test_logprobs_and_chunks_with_drafts(engine, pictures):
    """Logprobs are equal, and a chunk may have several tokens."""
    request = Request("what is this?", images=pictures, max_new_tokens=30, logprobs=3)
    plain = Request("what is this?", images=pictures, max_new_tokens=30)
    one = engine.answer([request])[0]
    assert list(engine.stream(plain)) != list(one.text)  # some arrived in one chunk
    chunks = []
    engine.start()
    (stream,) = engine.subscribe([request], lambda _, chunk: chunks.append(chunk))
    stream.wait()
    engine.stop()
    assert "".join(chunk.text for chunk in chunks) == one.text
    choices = [choice for chunk in chunks for choice in chunk.tokens]
    assert [choice.token for choice in choices] == list(one.tokens)
    for choice, expected in zip(choices, one.sampled_tokens, strict=True):
        assert choice.logprob == pytest.approx(expected.logprob, abs=1e-4)
        assert [c.token for c in choice.top_logprobs] == [c.token for c in expected.top_logprobs]
    assert any(len(chunk.tokens) > 1 for chunk in chunks)


def test_answer_ends_within_a_draft(engine):
    whole = engine.answer([Request("hi", max_new_tokens=40)])[0]
    for limit in range(1, 12):  # the draft would continue
        answer = engine.answer([Request("hi", max_new_tokens=limit)])[0]
        assert answer.tokens == whole.tokens[:limit]
        assert answer.finish_reason == "length"
    for index in range(1, len(whole.text) - 1):
        text = whole.text[index : index + 2]
        answer = engine.answer([Request("hi", max_new_tokens=40, stop=[text])])[0]
        assert answer.text == whole.text[: whole.text.index(text)]
        assert answer.finish_reason == "stop"


@pytest.mark.parametrize("how", ["none", "some"])
def test_second_turn_after_drafts(tiny_folder, pictures, how):
    """Keys and values of rejected drafts are not in the prefix cache."""
    engine = mgm.load(tiny_folder, device="cpu", num_speculative_tokens=DRAFT_TOKENS)
    first = Request("what?", images=pictures, max_new_tokens=19)
    engine.answer([first])
    engine.scheduler.prefix_cache.capacity = 0  # clear the cache, so that it is generated again
    engine.answer([Request("and", max_new_tokens=1)])
    engine.scheduler.prefix_cache.capacity = 2**29
    if how == "some":
        spoil(engine, how)
    text = engine.answer([first])[0].text
    second = Request("sure?", images=pictures, history=[(first.prompt, text)], max_new_tokens=19)
    expected = mgm.load(tiny_folder, device="cpu").answer([second])[0]
    answer = engine.answer([second])[0]
    assert answer.tokens == expected.tokens
    assert answer.cached_tokens > len(engine.processor.encode(engine.prompt(first)))


@pytest.mark.slow
def test_compiled_steps_with_drafts(tmp_path, pictures):
    folder = build(tmp_path / "model")
    requests = questions(pictures)
    expected = mgm.load(folder, device="cpu").answer(requests)
    engine = mgm.load(folder, device="cpu", num_speculative_tokens=DRAFT_TOKENS)
    torch._dynamo.reset()
    engine.compile_decode(backend="eager")
    spoil(engine, "some")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(2):
            assert [one.tokens for one in engine.answer(requests)] == [o.tokens for o in expected]
        assert engine.answer(requests[:1])[0].tokens == expected[0].tokens
    assert engine.scheduler.drafter.num_accepted_tokens

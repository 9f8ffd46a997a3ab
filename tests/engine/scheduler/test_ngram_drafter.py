"""Guesses at how answers go on, and that answers do not depend on them."""

import random

import pytest
import torch

import mgm
from mgm import MGMError, Request
from mgm.engine.scheduler import ngram_drafter as drafts
from mgm.engine.scheduler.ngram_drafter import Drafts, Guess
from tests.engine.scheduler.test_scheduler import count_tokens_read, questions, windows
from tests.tiny_model import build

END = 99  # the token that ends answers
DRAFT_TOKENS = 8


@pytest.fixture
def engine(tiny_folder):
    """An engine that drafts."""
    return mgm.load(tiny_folder, device="cpu", num_speculative_tokens=DRAFT_TOKENS)


def taught(*answers: list[int], most: int = 4) -> Drafts:
    remembered = Drafts(most)
    for answer in answers:
        remembered.learn([*answer, END], len(answer) + 1)
    return remembered


def test_what_was_written_is_guessed():
    remembered = taught(*[[1, 2, 3, 4, 5, 6, 7]] * 9)
    assert remembered.guess([1, 2], 9).tokens == (3, 4, 5, 6)  # no more than usual
    assert remembered.guess([1, 2], 2).tokens == (3, 4)  # no more than there is room for
    assert remembered.guess([9, 8, 1, 2], 1).tokens == (3,)
    assert remembered.guess([5, 6], 9, ends={END}).tokens == (7,)  # then the answer ended
    assert remembered.guess([1, 2], 9, ends={5}).tokens == (3, 4)
    assert remembered.guess([9, 2], 9).tokens == ()  # one token is not enough
    assert remembered.guess([], 9).tokens == ()


def test_what_is_not_likely_is_not_guessed():
    once = taught([1, 2, 3, 4, 5, 6, 7]).guess([1, 2], 9, ends={END})
    assert once == Guess((3, 4, 5), (1 / 2, 1 / 4, 1 / 8))
    half = taught(*[[1, 2, 3, 5, 5]] * 9, *[[1, 2, 4, 6, 6]] * 8)
    assert half.guess([1, 2], 9, ends={END}).tokens == (3, 5, 5)
    assert taught(*[[1, 2, n] for n in range(3, 13)]).guess([1, 2], 9).tokens == ()


def test_longer_runs_say_more():
    remembered = taught(*[[8, 1, 2, 3]] * 9, *[[9, 1, 2, 4]] * 5)
    assert remembered.guess([9, 1, 2], 1).tokens == (4,)
    assert remembered.guess([7, 1, 2], 1).tokens == (3,)


def test_only_new_tokens_are_learned():
    remembered = Drafts(DRAFT_TOKENS)
    remembered.learn([1, 2, 3, 4], 1)
    assert remembered.guess([1, 2], 1).tokens == ()
    assert remembered.guess([2, 3], 1).tokens == (4,)
    remembered.learn([5, 6], 9)  # all of them, and nothing from the end
    assert remembered.guess([5, 6], 1).tokens == ()


def test_guesses_are_as_long_as_they_are_worth():
    remembered = Drafts(DRAFT_TOKENS)
    sure, unsure = Guess((1, 2, 3), (0.9, 0.8, 0.7)), Guess((4,), (0.2,))
    none = Guess()
    assert remembered.worthwhile([sure]) == [sure]
    assert remembered.worthwhile([unsure]) == [unsure]  # alone it costs nearly nothing
    assert remembered.worthwhile([unsure] * 40) == [none] * 40
    # One of many makes the rows of all longer.
    assert remembered.worthwhile([sure, *[none] * 29]) == [none] * 30
    assert remembered.worthwhile([*[sure] * 9, unsure]) == [*[sure] * 9, unsure]
    long = Guess((1, 2, 3, 4), (0.9, 0.8, 0.7, 0.1))  # the last is not worth a longer step
    assert remembered.worthwhile([long] * 9) == [sure] * 9


def test_experience_counts():
    """What was wrong lately is thought less likely, until that is long ago."""
    remembered = taught(*[[1, 2, 3]] * 9)
    at_first = remembered.guess([1, 2], 1)
    for _ in range(30):
        remembered.count([at_first], 0)
    assert remembered.guess([1, 2], 1).chances[0] < at_first.chances[0] / 3
    for _ in range(500):
        remembered.count([Guess()], 0)
    assert remembered.guess([1, 2], 1).chances[0] == pytest.approx(at_first.chances[0], rel=0.1)
    for _ in range(30):
        remembered.count([at_first], 1)
    assert remembered.guess([1, 2], 1).chances[0] == pytest.approx(1, abs=0.1)
    assert (remembered.guessed, remembered.right) == (60, 30)


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(drafts, "RUNS", 50)
    remembered = Drafts(DRAFT_TOKENS)
    for number in range(200):
        remembered.learn([number, 1, 2, 3], 2)
    remembered.learn([7] * 100, 100)
    assert len(remembered._followers) == 50
    assert remembered.guess([7, 7], 9).tokens == (7,) * DRAFT_TOKENS
    many = Drafts(DRAFT_TOKENS)
    for number in [*range(100), *[1000] * 150]:
        many.learn([1, 2, number], 1)
    (followers,) = many._followers.values()
    assert len(followers.counts) == drafts.FOLLOWERS
    assert followers.likeliest() == (1000, 150 / 251)  # of all that came


def test_none_or_too_few():
    assert taught(*[[1, 2, 3]] * 9, most=0).guess([1, 2], 9) == Guess()
    with pytest.raises(MGMError, match="num_speculative_tokens is -1; give 0"):
        Drafts(-1)


def spoil(engine, how: str) -> None:
    """Make guesses wrong: all of them, their last tokens, or some of them, of all lengths."""
    draw = random.Random(0)
    remembered = engine.scheduler.drafts
    original = remembered.guess
    words = engine.model.config.text_config.vocab_size

    def guess(tokens, most, ends):
        right = original(tokens, most, ends).tokens
        if how == "end":
            return Guess(right[:-1] + tuple((token + 1) % words for token in right[-1:]))
        if how == "some" and draw.random() < 0.5:
            return Guess(right)
        count = min(most, 4 if how == "all" else draw.randint(0, DRAFT_TOKENS))
        return Guess(tuple(draw.randrange(words) for _ in range(max(count, 0))))

    remembered.guess = guess
    remembered.worthwhile = lambda guesses: guesses  # all of them are tried


@pytest.mark.parametrize("how", ["none", "all", "end", "some"])
def test_answers_do_not_depend_on_guesses(tiny_folder, pictures, how):
    asked = questions(pictures)
    expected = mgm.load(tiny_folder, device="cpu").answer(asked)
    engine = mgm.load(tiny_folder, device="cpu", num_speculative_tokens=DRAFT_TOKENS)
    if how != "none":
        spoil(engine, how)
    for _ in range(2):  # what was written is guessed the second time
        assert [one.tokens for one in engine.answer(asked)] == [one.tokens for one in expected]
    assert not engine.scheduler.busy
    guessed, right = engine.scheduler.drafts.guessed, engine.scheduler.drafts.right
    assert guessed > 50
    shares = {"none": (0.5, 1), "all": (0, 0.1), "end": (0.3, 0.9), "some": (0.1, 0.9)}
    assert shares[how][0] <= right / guessed <= shares[how][1]


@windows
def test_windows_with_guesses(tmp_path, pictures, text, attention):
    folder = build(tmp_path / "model", **text)
    asked = questions(pictures)
    chosen = {"device": "cpu", "attention": attention}
    expected = mgm.load(folder, **chosen).answer(asked)
    engine = mgm.load(folder, **chosen, num_speculative_tokens=DRAFT_TOKENS)
    spoil(engine, "some")
    for _ in range(2):
        assert [one.tokens for one in engine.answer(asked)] == [one.tokens for one in expected]
    assert 0 < engine.scheduler.drafts.right < engine.scheduler.drafts.guessed


def test_right_guesses_save_steps(engine, monkeypatch):
    request = Request("hi", max_new_tokens=40)
    read = count_tokens_read(engine, monkeypatch)
    first = engine.answer([request])[0]
    assert len(first.tokens) == 40
    read.clear()
    assert engine.answer([request])[0].tokens == first.tokens
    assert len(read) < 15
    assert 1 < max(read) <= 9


def test_what_is_told_with_tokens(engine, pictures):
    """Logarithms of probabilities, and pieces that hold several tokens."""
    request = Request("what is this?", images=pictures, max_new_tokens=30, logprobs=3)
    plain = Request("what is this?", images=pictures, max_new_tokens=30)
    one = engine.answer([request])[0]
    assert list(engine.stream(plain)) != list(one.text)  # some came together
    pieces = []
    engine.start()
    stream = engine.listen(request, pieces.append)
    with engine.turn:
        while not stream.ended:
            engine.go_on()
    engine.stop()
    assert "".join(piece.text for piece in pieces) == one.text
    choices = [choice for piece in pieces for choice in piece.choices]
    assert [choice.token for choice in choices] == list(one.tokens)
    for choice, expected in zip(choices, one.choices, strict=True):
        assert choice.logprob == pytest.approx(expected.logprob, abs=1e-4)
        assert [c.token for c in choice.likeliest] == [c.token for c in expected.likeliest]
    assert any(len(piece.choices) > 1 for piece in pieces)


def test_an_answer_ends_within_a_guess(engine):
    whole = engine.answer([Request("hi", max_new_tokens=40)])[0]
    for limit in range(1, 12):  # the guess would go on
        answer = engine.answer([Request("hi", max_new_tokens=limit)])[0]
        assert answer.tokens == whole.tokens[:limit]
        assert answer.finish_reason == "length"
    for place in range(1, len(whole.text) - 1):
        text = whole.text[place : place + 2]
        answer = engine.answer([Request("hi", max_new_tokens=40, stop=[text])])[0]
        assert answer.text == whole.text[: whole.text.index(text)]
        assert answer.finish_reason == "stop"


@pytest.mark.parametrize("how", ["none", "some"])
def test_a_second_turn_after_guesses(tiny_folder, pictures, how):
    """What was read of wrong guesses is no part of what the next prompt goes on from."""
    engine = mgm.load(tiny_folder, device="cpu", num_speculative_tokens=DRAFT_TOKENS)
    first = Request("what is this?", images=pictures, max_new_tokens=19)
    engine.answer([first])
    engine.scheduler.prefixes.capacity = 0  # forget, so that it is written again
    engine.answer([Request("and", max_new_tokens=1)])
    engine.scheduler.prefixes.capacity = 2**29
    if how == "some":
        spoil(engine, how)
    text = engine.answer([first])[0].text
    second = Request("sure?", images=pictures, history=[(first.prompt, text)], max_new_tokens=19)
    expected = mgm.load(tiny_folder, device="cpu").answer([second])[0]
    found = engine.answer([second])[0]
    assert found.tokens == expected.tokens
    assert found.cached_tokens > len(engine.processor.encode(engine.prompt(first)))


@pytest.mark.slow
def test_compiled_steps_take_guesses(tmp_path, pictures):
    folder = build(tmp_path / "model")
    asked = questions(pictures)
    expected = mgm.load(folder, device="cpu").answer(asked)
    engine = mgm.load(folder, device="cpu", num_speculative_tokens=DRAFT_TOKENS)
    torch._dynamo.reset()
    engine.compile_decoding(backend="eager")
    spoil(engine, "some")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(2):
            assert [one.tokens for one in engine.answer(asked)] == [o.tokens for o in expected]
        assert engine.answer(asked[:1])[0].tokens == expected[0].tokens
    assert engine.scheduler.drafts.right

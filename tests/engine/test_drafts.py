"""Guesses at how answers go on, and that answers do not depend on them."""

import random

import pytest
import torch

import mgm
from mgm import MGMError, Request
from mgm.engine import drafts
from mgm.engine.drafts import END, Drafts
from tests.engine.test_scheduler import GEMMA_2, MISTRAL, QWEN_3, count_tokens_read, questions
from tests.tiny_model import build


def taught(*answers: list[int], most: int = 4) -> Drafts:
    remembered = Drafts(most)
    for answer in answers:
        remembered.learn([*answer, END], len(answer) + 1)
    return remembered


def test_what_was_written_is_guessed():
    remembered = taught(*[[1, 2, 3, 4, 5, 6, 7]] * 9)
    assert remembered.guess([1, 2], 9) == [3, 4, 5, 6]  # no more than usual
    assert remembered.guess([1, 2], 2) == [3, 4]  # no more than there is room for
    assert remembered.guess([9, 8, 1, 2], 1) == [3]
    assert remembered.guess([5, 6], 9) == [7]  # then the answer ended
    assert remembered.guess([9, 2], 9) == []  # one token is not enough
    assert remembered.guess([], 9) == []


def test_what_is_not_likely_is_not_guessed():
    assert taught([1, 2, 3, 4, 5, 6]).guess([1, 2], 9) == [3, 4]  # a half, a quarter, an eighth
    half = taught(*[[1, 2, 3, 5, 5]] * 9, *[[1, 2, 4, 6, 6]] * 8)
    assert half.guess([1, 2], 9) == [3, 5, 5]
    assert taught(*[[1, 2, n] for n in range(3, 7)]).guess([1, 2], 9) == []


def test_longer_runs_say_more():
    remembered = taught(*[[8, 1, 2, 3]] * 9, *[[9, 1, 2, 4]] * 5)
    assert remembered.guess([9, 1, 2], 1) == [4]
    assert remembered.guess([7, 1, 2], 1) == [3]


def test_only_new_tokens_are_learned():
    remembered = Drafts()
    remembered.learn([1, 2, 3, 4], 1)
    assert remembered.guess([1, 2], 1) == []
    assert remembered.guess([2, 3], 1) == [4]
    remembered.learn([5, 6], 9)  # all of them, and nothing from the end
    assert remembered.guess([5, 6], 1) == []


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(drafts, "RUNS", 50)
    remembered = Drafts()
    for number in range(200):
        remembered.learn([number, 1, 2, 3], 2)
    remembered.learn([7] * 100, 100)
    assert len(remembered._followers) == 50
    assert remembered.guess([7, 7], 9) == [7] * 4
    many = Drafts()
    for number in [*range(100), *[1000] * 150]:
        many.learn([1, 2, number], 1)
    (followers,) = many._followers.values()
    assert len(followers.counts) == drafts.FOLLOWERS
    assert followers.likeliest() == (1000, 150 / 251)  # of all that came


def test_none_or_too_few():
    assert taught(*[[1, 2, 3]] * 9, most=0).guess([1, 2], 9) == []
    with pytest.raises(MGMError, match="speculative_tokens is -1; give 0"):
        Drafts(-1)


def spoil(engine, how: str) -> None:
    """Make guesses wrong: all of them, their last tokens, or some of them, of all lengths."""
    draw = random.Random(0)
    remembered = engine.scheduler.drafts
    original = remembered.guess
    words = engine.model.config.text_config.vocab_size

    def guess(tokens, most):
        right = original(tokens, most)
        if how == "end":
            return [*right[:-1], (right[-1] + 1) % words] if right else []
        count = min(most, 4 if how == "all" else draw.randint(0, 4))
        wrong = [draw.randrange(words) for _ in range(max(count, 0))]
        return right if how == "some" and draw.random() < 0.5 else wrong

    remembered.guess = guess


@pytest.mark.parametrize("how", ["none", "all", "end", "some"])
def test_answers_do_not_depend_on_guesses(tiny_folder, pictures, how):
    asked = questions(pictures)
    expected = mgm.load(tiny_folder, device="cpu", speculative_tokens=0).answer(asked)
    engine = mgm.load(tiny_folder, device="cpu")
    if how != "none":
        spoil(engine, how)
    for _ in range(2):  # what was written is guessed the second time
        assert [one.tokens for one in engine.answer(asked)] == [one.tokens for one in expected]
    assert not engine.scheduler.busy
    guessed, right = engine.scheduler.drafts.guessed, engine.scheduler.drafts.right
    assert guessed > 50
    assert (right > guessed / 2) == (how == "none")


@pytest.mark.parametrize(
    ("text", "attention"),
    [(MISTRAL, "sdpa"), (MISTRAL, "eager"), (QWEN_3, "sdpa"), (GEMMA_2, "eager")],
    ids=["mistral", "mistral, eager", "qwen3", "gemma2"],
)
def test_windows_with_guesses(tmp_path, pictures, text, attention):
    folder = build(tmp_path / "model", **text)
    asked = questions(pictures)
    chosen = {"device": "cpu", "attention": attention}
    expected = mgm.load(folder, **chosen, speculative_tokens=0).answer(asked)
    engine = mgm.load(folder, **chosen)
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
    assert len(read) < 20
    assert max(read) <= 5


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
        assert [token for token, _ in choice.likeliest] == [t for t, _ in expected.likeliest]
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
    engine = mgm.load(tiny_folder, device="cpu")
    first = Request("what is this?", images=pictures, max_new_tokens=19)
    engine.answer([first])
    engine.scheduler.prefixes.capacity = 0  # forget, so that it is written again
    engine.answer([Request("and", max_new_tokens=1)])
    engine.scheduler.prefixes.capacity = 2**29
    if how == "some":
        spoil(engine, how)
    text = engine.answer([first])[0].text
    second = Request("sure?", images=pictures, history=[(first.prompt, text)], max_new_tokens=19)
    expected = mgm.load(tiny_folder, device="cpu", speculative_tokens=0).answer([second])[0]
    found = engine.answer([second])[0]
    assert found.tokens == expected.tokens
    assert found.cached_tokens > len(engine.processor.encode(engine.prompt(first)))


def test_compiled_steps_take_guesses(tmp_path, pictures):
    folder = build(tmp_path / "model")
    asked = questions(pictures)
    expected = mgm.load(folder, device="cpu", speculative_tokens=0).answer(asked)
    engine = mgm.load(folder, device="cpu")
    torch._dynamo.reset()
    engine.compile_decoding(backend="eager")
    spoil(engine, "some")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(2):
            assert [one.tokens for one in engine.answer(asked)] == [o.tokens for o in expected]
        assert engine.answer(asked[:1])[0].tokens == expected[0].tokens
    assert engine.scheduler.drafts.right

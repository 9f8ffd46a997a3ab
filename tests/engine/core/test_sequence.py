"""Answers that begin anew, and those that go on with the prompt's text."""

from dataclasses import replace
from functools import cache

import pytest

import mgm
from mgm import Request


@cache
def nano():
    return mgm.load("playground/mgm-nano", device="cpu")


PROMPT = "What color is the sign? The sign is"


def request(**settings) -> Request:
    """Six tokens: the one that ends an answer is banned."""
    bans = dict.fromkeys(nano()._preparer.prompts.stop_criteria.token_ids, -100)
    return Request(PROMPT, raw=True, max_new_tokens=6, logit_bias=bans, **settings)


def test_a_continuation_keeps_its_first_blank():
    original = request(logprobs=2)
    anew, going_on = nano().answer([original, replace(original, continues_text=True)])
    assert going_on.tokens == anew.tokens
    assert going_on.text == " " + anew.text
    tokenizer = nano().processor.tokenizer
    ids = nano().processor.encode(PROMPT)
    whole = tokenizer.decode([*ids, *going_on.tokens], skip_special_tokens=True)
    assert PROMPT + going_on.text == whole
    assert "".join(choice.text for choice in going_on.sampled_tokens) == going_on.text
    first, second, *_ = going_on.sampled_tokens
    assert (first.offset, second.offset) == (0, len(first.text))
    assert first.text.startswith(" ")
    assert any(one.text == first.text for one in first.top_logprobs)


@pytest.mark.parametrize("going_on", [False, True])
def test_streams_are_the_answer(going_on):
    original = request(continues_text=going_on)
    stream = nano().stream(original)
    while nano().scheduler.busy:
        nano().scheduler.step()
    assert "".join(stream) == stream.answer.text
    assert stream.answer.text.startswith(" ") == going_on


def test_after_a_template_an_answer_begins_anew():
    (answer,) = nano().answer([Request("Name a color.", max_new_tokens=6)])
    assert not answer.text.startswith(" ")

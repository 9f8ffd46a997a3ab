"""Requests that continue the prompt's text, and ordinary ones."""

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
    """A request for six tokens, with the stop token banned."""
    bans = dict.fromkeys(nano()._preparer.prompts.stop_criteria.token_ids, -100)
    return Request(PROMPT, raw=True, max_new_tokens=6, logit_bias=bans, **settings)


def test_continuation_keeps_its_leading_blank():
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
def test_streamed_text_equals_the_answer(going_on):
    original = request(continues_text=going_on)
    stream = nano().stream(original)
    while nano().scheduler.busy:
        nano().scheduler.step()
    assert "".join(stream) == stream.answer.text
    assert stream.answer.text.startswith(" ") == going_on


def test_answer_after_a_template_has_no_leading_blank():
    (answer,) = nano().answer([Request("Name a color.", max_new_tokens=6)])
    assert not answer.text.startswith(" ")

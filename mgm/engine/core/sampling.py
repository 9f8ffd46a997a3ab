"""How the tokens of an answer are chosen, and what is known of a chosen one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

BAN, FORCE = -100.0, 100.0  # of `logit_bias`
MIN_TEMPERATURE = 1e-6  # below it float32 has no room for differences: the likeliest token is taken


@dataclass(frozen=True)
class Sampling:
    """How the tokens of one answer are chosen.

    Logits are changed by the repetition penalty, then by the presence and frequency penalties and
    `logit_bias`, then masked by the grammar of structured output; then comes the temperature.

    Attributes:
        temperature: larger values even the chances out. Below `MIN_TEMPERATURE`: the likeliest
            token.
        top_p: only the likeliest tokens that together reach this probability are drawn.
        top_k: only so many of the likeliest tokens are drawn; 0: all.
        min_p: only tokens at least this times as probable as the likeliest are drawn.
        repetition_penalty: tokens that are in the prompt or the answer are less likely, by this
            factor on their logits (https://arxiv.org/abs/1909.05858, section 4.1); 1: as likely.
        seed: makes the draws repeatable; None: other draws every time.
        logprobs: how many of the likeliest tokens are told with each one; None: nothing is.
        presence_penalty: taken off the logits of tokens that are in the answer.
        frequency_penalty: the same, times how often they are.
        logit_bias: added to the logits of these tokens; -100 bans a token, and with 100 only
            tokens that have 100 are chosen.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    logprobs: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature < MIN_TEMPERATURE


class Candidate(NamedTuple):
    """One of the likeliest tokens at some position.

    Attributes:
        token: its id.
        logprob: as that of `Choice`.
        text: what it would have been of the answer's text; special tokens are their names.
        utf8: the bytes of that.
    """

    token: int
    logprob: float
    text: str = ""
    utf8: bytes = b""


@dataclass(frozen=True)
class Choice:
    """A token.

    Attributes:
        token: its id.
        logprob: the logarithm of its probability in the model, before anything of `Sampling`.
        likeliest: the likeliest tokens.
        text: what it is of the answer's text; a character of several tokens is its last one's.
        utf8: its bytes of the answer's text.
        offset: characters of the answer's text before it.
    """

    token: int
    logprob: float | None = None
    likeliest: tuple[Candidate, ...] = ()
    text: str = ""
    utf8: bytes = b""
    offset: int = 0

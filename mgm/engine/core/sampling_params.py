"""Sampling parameters of a request, and a sampled token with its log-probabilities."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

BAN, FORCE = -100.0, 100.0  # values of `logit_bias`
MIN_TEMPERATURE = 1e-6  # below it logits / temperature overflows float32; decoding is greedy


@dataclass(frozen=True)
class SamplingParams:
    """Sampling parameters of one sequence.

    Order: repetition penalty, presence and frequency penalties with `logit_bias`, the grammar mask
    of structured output, temperature, then min_p, top_k and top_p.

    Attributes:
        temperature: softmax temperature; below `MIN_TEMPERATURE` decoding is greedy.
        top_p: nucleus sampling: the smallest set of tokens whose probabilities reach this sum.
        top_k: only the k most probable tokens; 0: all.
        min_p: only tokens at least this times as probable as the most probable one.
        repetition_penalty: divides positive logits, and multiplies negative ones, of tokens of the
            prompt and the output (https://arxiv.org/abs/1909.05858, section 4.1); 1: no penalty.
        seed: seed of the random generator; None: a random one.
        logprobs: number of most probable tokens returned with each sampled one; None: no
            log-probabilities at all.
        presence_penalty: subtracted from the logits of tokens that the output contains.
        frequency_penalty: subtracted once for each of their occurrences.
        logit_bias: added to the logits of these token ids; -100 bans a token, and where tokens
            have 100 only those can be sampled.
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
        """Whether the most probable token is always taken."""
        return self.temperature < MIN_TEMPERATURE


class TopLogprob(NamedTuple):
    """One of the most probable tokens at a position.

    Attributes:
        token: token id.
        logprob: log-probability, as in `SampledToken`.
        text: text that it would have added; the name of a special token.
        utf8: the bytes of that text.
    """

    token: int
    logprob: float
    text: str = ""
    utf8: bytes = b""


@dataclass(frozen=True)
class SampledToken:
    """One token of an output.

    Attributes:
        token: token id.
        logprob: log-probability under the model, before penalties, bias, mask and temperature.
        top_logprobs: the most probable tokens at its position.
        text: part of the output text; a character of several tokens belongs to the last one.
        utf8: bytes of the output text that the token stands for.
        offset: characters of the output text before it.
    """

    token: int
    logprob: float | None = None
    top_logprobs: tuple[TopLogprob, ...] = ()
    text: str = ""
    utf8: bytes = b""
    offset: int = 0

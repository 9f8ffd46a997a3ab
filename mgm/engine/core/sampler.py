"""Which token comes next: for all answers at once, without waiting for the device in between."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How the tokens of one answer are chosen.

    Attributes:
        temperature: above 0; larger values even the chances out. 0: the likeliest token.
        top_p: only the likeliest tokens that together reach this probability are drawn.
        top_k: only so many of the likeliest tokens are drawn; 0: all.
        min_p: only tokens at least this times as probable as the likeliest are drawn.
        repetition_penalty: tokens that are in the prompt or the answer are less likely, by this
            factor on their logits (https://arxiv.org/abs/1909.05858, section 4.1); 1: as likely.
        seed: makes the draws repeatable; None: other draws every time.
        logprobs: how many of the likeliest tokens are told with each one; None: nothing is.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    logprobs: int | None = None


@dataclass(frozen=True)
class Choice:
    """A token.

    Attributes:
        token: its id.
        logprob: the logarithm of its probability in the model, before anything of `Sampling`.
        likeliest: ids of the likeliest tokens with theirs.
    """

    token: int
    logprob: float | None = None
    likeliest: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Chooses the tokens of one answer; its draws depend on nothing but the seed.

    Args:
        sampling: how.
        prompt_ids: tokens of the prompt, for the repetition penalty.
    """

    def __init__(self, sampling: Sampling, prompt_ids: Sequence[int] = ()) -> None:
        self.sampling = sampling
        self.seen = set(prompt_ids) if sampling.repetition_penalty != 1 else None
        # On the CPU whatever the device, so that a seed means the same everywhere.
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def point(self) -> float:
        """Where in the chances, from 0 to 1, the next token is drawn."""
        return float(torch.rand((), generator=self._generator, dtype=torch.float64))


def choose(logits: Tensor, samplers: Sequence[Sampler]) -> list[Choice]:
    """The next token of every row.

    Args:
        logits: (batch, vocabulary), of any dtype and on any device.
        samplers: one for each row.
    """
    given = logits
    if any(sampler.seen is not None for sampler in samplers):
        logits = _penalised(logits.float(), samplers)
    tokens = logits.argmax(-1)
    drawn = [row for row, sampler in enumerate(samplers) if sampler.sampling.temperature > 0]
    if drawn:
        rows = torch.tensor(drawn, device=logits.device)
        tokens[rows] = _draw(logits[rows].float(), [samplers[row] for row in drawn])
    most = max((sampler.sampling.logprobs or 0 for sampler in samplers), default=0)
    if all(sampler.sampling.logprobs is None for sampler in samplers):
        choices = [Choice(token) for token in tokens.tolist()]  # here the device is waited for
    else:
        choices = _told(given, tokens, samplers, most)
    for sampler, choice in zip(samplers, choices, strict=True):
        if sampler.seen is not None:
            sampler.seen.add(choice.token)
    return choices


def _penalised(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Logits (batch, vocabulary), those of tokens that were seen further down."""
    changed = logits.clone()
    for row, sampler in enumerate(samplers):
        if sampler.seen:
            ids = [token for token in sampler.seen if 0 <= token < logits.shape[-1]]
            seen = torch.tensor(ids, device=logits.device, dtype=torch.long)
            of_row, penalty = logits[row, seen], sampler.sampling.repetition_penalty
            changed[row, seen] = torch.where(of_row > 0, of_row / penalty, of_row * penalty)
    return changed


def _draw(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Tokens (batch) drawn from logits (batch, vocabulary)."""

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=logits.device, dtype=torch.float32).unsqueeze(-1)

    settings = [sampler.sampling for sampler in samplers]
    # The largest becomes 0 first: a tiny temperature must not make infinities.
    logits = logits - logits.amax(-1, keepdim=True)
    chances = (logits / column([one.temperature for one in settings])).softmax(-1)
    chances, order = chances.sort(dim=-1, descending=True, stable=True)
    before = chances.cumsum(-1) - chances  # of the likelier ones; the first always stays
    kept = before < column([one.top_p for one in settings])
    ranks = torch.arange(chances.shape[-1], device=logits.device)
    kept &= ranks < column([one.top_k or chances.shape[-1] for one in settings])
    kept &= chances >= column([one.min_p for one in settings]) * chances[:, :1]
    kept[:, 0] = True
    sums = (chances * kept).cumsum(-1)
    points = column([sampler.point() for sampler in samplers]) * sums[:, -1:]
    place = (sums <= points).sum(-1, keepdim=True)
    # Rounding may bring the point to the very end, where nothing is left.
    last = kept.sum(-1, keepdim=True) - 1
    return order.gather(-1, torch.minimum(place, last)).squeeze(-1)


def _told(logits: Tensor, tokens: Tensor, samplers: Sequence[Sampler], most: int) -> list[Choice]:
    """Tokens with the logarithms of probabilities that are asked for."""
    logprobs = logits.float().log_softmax(-1)
    own = logprobs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1).tolist()
    values, ids = logprobs.topk(min(most, logprobs.shape[-1]), dim=-1)
    values, ids = values.tolist(), ids.tolist()
    choices = []
    for row, (token, sampler) in enumerate(zip(tokens.tolist(), samplers, strict=True)):
        count = sampler.sampling.logprobs
        if count is None:
            choices.append(Choice(token))
            continue
        likeliest = tuple(zip(ids[row][:count], values[row][:count], strict=True))
        choices.append(Choice(token, own[row], likeliest))
    return choices

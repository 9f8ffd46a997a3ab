"""Batched sampling with one device synchronisation per step."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mgm.engine.core.errors import GenerationError, RequestError
from mgm.engine.core.faults import is_device_fault
from mgm.engine.core.sampling import BAN, FORCE, Candidate, Choice, Sampling

_FORCED = 1e4  # added to the logits of forced tokens: more than logits differ by
NOT_FINITE, NOTHING_ALLOWED = -1, -2  # in place of a token
MESSAGES = {
    NOT_FINITE: "the model produced non-finite logits (NaN or infinity): its weights are damaged, "
    "or its dtype is too narrow; try bfloat16 or float32",
    NOTHING_ALLOWED: "logit_bias bans every token that may come next (of those that structured "
    "output allows, if there is one); ban fewer",
}


class TokenMask(Protocol):
    """What says which tokens may come next, such as a grammar."""

    @property
    def complete(self) -> bool:
        """Whether nothing but the end may come."""

    def allowed(self) -> bytes:
        """A bit for each token of the vocabulary, the first lowest: whether it may come next."""

    def accept(self, token: int) -> None:
        """Go on behind a token."""


@dataclass(frozen=True)
class _Plan:
    """What is decided about the next token of a row before its logits are looked at.

    Attributes:
        point: where in the chances, from 0 to 1, it is drawn.
        biases: added to logits, by token.
        allowed: a bit for each token.
    """

    point: float = 0.0
    biases: Mapping[int, float] = field(default_factory=dict)
    allowed: bytes | None = None


_PLAIN = _Plan()


class Sampler:
    """Chooses the tokens of one answer; its draws depend on nothing but the seed.

    Args:
        sampling: how.
        prompt_ids: tokens of the prompt, for the repetition penalty.
        mask: says which tokens may come next; None: all.
    """

    def __init__(
        self, sampling: Sampling, prompt_ids: Sequence[int] = (), mask: TokenMask | None = None
    ) -> None:
        self.sampling = sampling
        self.mask = mask
        self.seen = set(prompt_ids) if sampling.repetition_penalty != 1 else None
        self._counts = Counter[int]()  # of the answer's tokens
        self._penalised = bool(sampling.presence_penalty or sampling.frequency_penalty)
        self._bias = _effective_bias(sampling.logit_bias)
        # On the CPU whatever the device, so that a seed means the same everywhere.
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def point(self) -> float:
        """Where in the chances, from 0 to 1, the next token is drawn."""
        return float(torch.rand((), generator=self._generator, dtype=torch.float64))

    def plan(self) -> _Plan:
        """Decide what does not depend on the logits; once for each token.

        Raises:
            MGMError: the grammar of structured output cannot go on.
        """
        allowed = None if self.mask is None else self.mask.allowed()
        point = 0.0 if self.sampling.greedy else self.point()
        if allowed is None and not point and not self._bias and not self._counts:
            return _PLAIN
        biases = self._bias
        if self._counts:
            biases = dict(biases)
            once, each = self.sampling.presence_penalty, self.sampling.frequency_penalty
            for token, count in self._counts.items():
                biases[token] = biases.get(token, 0.0) - once - each * count
        return _Plan(point, biases, allowed)

    def accept(self, token: int) -> None:
        """Take notice of the token that was chosen.

        Raises:
            MGMError: the grammar of structured output cannot go on.
        """
        if self.seen is not None:
            self.seen.add(token)
        if self._penalised:
            self._counts[token] += 1
        if self.mask is not None:
            self.mask.accept(token)


def choose(logits: Tensor, samplers: Sequence[Sampler]) -> list[Choice | Exception]:
    """The next token of every row, or what was raised while it was chosen.

    A row's error is its own: other rows get the tokens that they would get without it.

    Args:
        logits: (batch, vocabulary), of any dtype and on any device.
        samplers: one for each row.

    Raises:
        torch.OutOfMemoryError, torch.AcceleratorError: a fault of the device.
    """
    plans, errors = [], {}
    for row, sampler in enumerate(samplers):
        try:
            plans.append(sampler.plan())
        except Exception as error:  # noqa: BLE001  it is this row's
            plans.append(_PLAIN)
            errors[row] = error
    found = _choose_or_fail(logits, samplers, plans)
    for row, sampler in enumerate(samplers):
        choice: Choice | Exception = errors.get(row, found[row])
        try:
            if isinstance(choice, Choice):
                sampler.accept(choice.token)
        except Exception as error:  # noqa: BLE001  it is this row's
            choice = error
        found[row] = choice
    return found


def _choose_or_fail(
    logits: Tensor, samplers: Sequence[Sampler], plans: Sequence[_Plan]
) -> list[Choice | Exception]:
    try:
        return _choose(logits, samplers, plans)
    except Exception as error:
        if is_device_fault(error):
            raise
        if len(samplers) == 1:
            return [error]
        rows = range(len(samplers))
        return [
            _choose_or_fail(logits[row : row + 1], samplers[row : row + 1], plans[row : row + 1])[0]
            for row in rows
        ]


def _choose(
    logits: Tensor, samplers: Sequence[Sampler], plans: Sequence[_Plan]
) -> list[Choice | Exception]:
    given = logits
    logits = _adjusted(logits, samplers, plans)
    tokens = logits.argmax(-1)  # NaN counts as the largest
    largest = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    results = torch.where(largest.isfinite(), tokens, NOT_FINITE)
    if logits is not given:
        finite = given.amax(-1).isfinite()
        results = torch.where(finite & (results == NOT_FINITE), NOTHING_ALLOWED, results)
        results = torch.where(finite, results, NOT_FINITE)
    drawn = [row for row, sampler in enumerate(samplers) if not sampler.sampling.greedy]
    if drawn:
        rows = torch.tensor(drawn, device=logits.device)
        draws = _draw(
            logits[rows].float(),
            [samplers[row].sampling for row in drawn],
            [plans[row].point for row in drawn],
        )
        results[rows] = torch.where(results[rows] < 0, results[rows], draws)
    if all(sampler.sampling.logprobs is None for sampler in samplers):
        # Here the device is waited for.
        return [_choice(Choice(result)) for result in results.tolist()]
    return [_choice(one) for one in _with_logprobs(given, results, samplers)]


def _choice(choice: Choice) -> Choice | Exception:
    """The choice, or the error that its token stands for."""
    if choice.token >= 0:
        return choice
    if choice.token == NOTHING_ALLOWED:
        return RequestError(MESSAGES[NOTHING_ALLOWED], "logit_bias")
    return GenerationError(MESSAGES[choice.token])


def _effective_bias(logit_bias: Mapping[int, float]) -> dict[int, float]:
    """What is added to logits: -inf bans, and enough to outweigh all others forces."""
    special = {BAN: -torch.inf, FORCE: _FORCED}
    return {token: special.get(value, value) for token, value in logit_bias.items()}


def _adjusted(logits: Tensor, samplers: Sequence[Sampler], plans: Sequence[_Plan]) -> Tensor:
    """Logits (batch, vocabulary) with penalties, biases and masks; the same if there are none."""
    penalised = [row for row, sampler in enumerate(samplers) if sampler.seen]
    biased = [row for row, plan in enumerate(plans) if plan.biases]
    masked = [row for row, plan in enumerate(plans) if plan.allowed is not None]
    if not (penalised or biased or masked):
        return logits
    device, width = logits.device, logits.shape[-1]
    changed = logits.float().clone()
    for row in penalised:
        ids = [token for token in samplers[row].seen or () if 0 <= token < width]
        seen = torch.tensor(ids, device=device, dtype=torch.long)
        of_row, penalty = changed[row, seen], samplers[row].sampling.repetition_penalty
        changed[row, seen] = torch.where(of_row > 0, of_row / penalty, of_row * penalty)
    if biased:
        cells = [(row, token) for row in biased for token in plans[row].biases]
        values = [value for row in biased for value in plans[row].biases.values()]
        indices = torch.tensor(cells, device=device).unbind(-1)
        changed.index_put_(indices, torch.tensor(values, device=device), accumulate=True)
    if masked:
        bits = np.stack([np.frombuffer(plans[row].allowed or b"", np.uint8) for row in masked])
        allowed = np.unpackbits(bits, axis=-1, count=width, bitorder="little").astype(bool)
        forbidden = ~torch.from_numpy(allowed).to(device)
        rows = torch.tensor(masked, device=device)
        changed[rows] = changed[rows].masked_fill(forbidden, -torch.inf)
    return changed


def _draw(logits: Tensor, settings: Sequence[Sampling], points: Sequence[float]) -> Tensor:
    """Tokens (batch) drawn from logits (batch, vocabulary) at these points of the chances."""

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=logits.device, dtype=torch.float32).unsqueeze(-1)

    # The largest becomes 0 first: a low temperature must not make infinities.
    logits = logits - logits.amax(-1, keepdim=True)
    chances = (logits / column([one.temperature for one in settings])).softmax(-1)
    chances, order = chances.sort(dim=-1, descending=True, stable=True)
    before = chances.cumsum(-1) - chances  # of the likelier ones; the first always stays
    kept = before < column([one.top_p for one in settings])
    ranks = torch.arange(chances.shape[-1], device=logits.device)
    kept &= ranks < column([one.top_k or chances.shape[-1] for one in settings])
    kept &= chances >= column([one.min_p for one in settings]) * chances[:, :1]
    kept &= chances > 0  # what is masked is not drawn, wherever rounding puts the point
    kept[:, 0] = True
    sums = (chances * kept).cumsum(-1)
    index = (sums <= column(points) * sums[:, -1:]).sum(-1, keepdim=True)
    # Rounding may bring the point to the very end, where nothing is left.
    last = kept.sum(-1, keepdim=True) - 1
    return order.gather(-1, torch.minimum(index, last)).squeeze(-1)


def _with_logprobs(logits: Tensor, results: Tensor, samplers: Sequence[Sampler]) -> list[Choice]:
    """Tokens with the logarithms of probabilities that are asked for."""
    count = max(sampler.sampling.logprobs or 0 for sampler in samplers)
    logprobs = logits.float().log_softmax(-1)
    own = logprobs.gather(-1, results.clamp(min=0).unsqueeze(-1)).squeeze(-1).tolist()
    values, ids = logprobs.topk(min(count, logprobs.shape[-1]), dim=-1)
    values, ids = values.tolist(), ids.tolist()
    choices = []
    for row, (token, sampler) in enumerate(zip(results.tolist(), samplers, strict=True)):
        asked = sampler.sampling.logprobs
        if asked is None:
            choices.append(Choice(token))
            continue
        likeliest = tuple(map(Candidate, ids[row][:asked], values[row][:asked]))
        choices.append(Choice(token, own[row], likeliest))
    return choices

"""Batched sampling (top-p, top-k, min-p, logprobs) with one device synchronisation per step."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mgm.engine.core.device_errors import is_device_error
from mgm.engine.core.errors import GenerationError, RequestError
from mgm.engine.core.sampling_params import BAN, FORCE, SampledToken, SamplingParams, TopLogprob

_FORCED = 1e4  # added to the logits of forced tokens: more than any two logits differ by
NOT_FINITE, NOTHING_ALLOWED = -1, -2  # error codes in place of a token id
MESSAGES = {
    NOT_FINITE: "the model produced non-finite logits (NaN or infinity): its weights are damaged, "
    "or its dtype is too narrow; try bfloat16 or float32",
    NOTHING_ALLOWED: "logit_bias bans every token that may come next (of those that structured "
    "output allows, if there is one); ban fewer",
}


class TokenMask(Protocol):
    """Constrains the next token of a sequence, such as the state of a grammar."""

    @property
    def complete(self) -> bool:
        """Whether the output is complete, so that only a stop token is allowed next."""

    def bitmask(self) -> bytes:
        """One bit per token of the vocabulary, lowest bit first: whether it is allowed next."""

    def accept(self, token: int) -> None:
        """Advance by a token."""


@dataclass(frozen=True)
class _StepParams:
    """Parameters of a row's next token.

    Attributes:
        uniform: random number in [0, 1) that selects a token from the distribution.
        biases: added to logits, by token.
        bitmask: one bit per token; None: all are allowed.
    """

    uniform: float = 0.0
    biases: Mapping[int, float] = field(default_factory=dict)
    bitmask: bytes | None = None


_GREEDY = _StepParams()


class Sampler:
    """Sampling state of one sequence; its random numbers depend on the seed alone.

    Args:
        params: sampling parameters.
        prompt_ids: tokens of the prompt, for the repetition penalty.
        mask: constrains the next token; None: all are allowed.
    """

    def __init__(
        self, params: SamplingParams, prompt_ids: Sequence[int] = (), mask: TokenMask | None = None
    ) -> None:
        self.params = params
        self.mask = mask
        self.seen = set(prompt_ids) if params.repetition_penalty != 1 else None
        self._counts = Counter[int]()  # occurrences of output tokens
        self._penalised = bool(params.presence_penalty or params.frequency_penalty)
        self._bias = _effective_bias(params.logit_bias)
        # Always on the CPU: a seed gives the same random numbers with every device.
        self._generator = torch.Generator()
        if params.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(params.seed)

    def draw_uniform(self) -> float:
        """The next random number in [0, 1)."""
        return float(torch.rand((), generator=self._generator, dtype=torch.float64))

    def step_params(self) -> _StepParams:
        """Parameters of the next token; called once per token, since it advances the generator.

        Raises:
            MGMError: the grammar of structured output cannot continue.
        """
        bitmask = None if self.mask is None else self.mask.bitmask()
        uniform = 0.0 if self.params.greedy else self.draw_uniform()
        if bitmask is None and not uniform and not self._bias and not self._counts:
            return _GREEDY
        biases = self._bias
        if self._counts:
            biases = dict(biases)
            presence, frequency = self.params.presence_penalty, self.params.frequency_penalty
            for token, count in self._counts.items():
                biases[token] = biases.get(token, 0.0) - presence - frequency * count
        return _StepParams(uniform, biases, bitmask)

    def accept(self, token: int) -> None:
        """Record the sampled token.

        Raises:
            MGMError: the grammar of structured output cannot continue.
        """
        if self.seen is not None:
            self.seen.add(token)
        if self._penalised:
            self._counts[token] += 1
        if self.mask is not None:
            self.mask.accept(token)


def sample(logits: Tensor, samplers: Sequence[Sampler]) -> list[SampledToken | Exception]:
    """Sample the next token of every row; returns tokens, and errors of rows that failed.

    An error concerns its own row: other rows get the same tokens as without it.

    Args:
        logits: (batch, vocabulary), of any dtype and on any device.
        samplers: one for each row.

    Raises:
        torch.OutOfMemoryError, torch.AcceleratorError: the device is out of memory, or has failed.
    """
    params, errors = [], {}
    for row, sampler in enumerate(samplers):
        try:
            params.append(sampler.step_params())
        except Exception as error:  # noqa: BLE001  it concerns this row alone
            params.append(_GREEDY)
            errors[row] = error
    results = _sample_or_split(logits, samplers, params)
    for row, sampler in enumerate(samplers):
        result: SampledToken | Exception = errors.get(row, results[row])
        try:
            if isinstance(result, SampledToken):
                sampler.accept(result.token)
        except Exception as error:  # noqa: BLE001  it concerns this row alone
            result = error
        results[row] = result
    return results


def _sample_or_split(
    logits: Tensor, samplers: Sequence[Sampler], params: Sequence[_StepParams]
) -> list[SampledToken | Exception]:
    """Sample the batch; if that raises, sample row by row to isolate the failing row."""
    try:
        return _sample_batch(logits, samplers, params)
    except Exception as error:
        if is_device_error(error):
            raise
        if len(samplers) == 1:
            return [error]
        rows = [slice(row, row + 1) for row in range(len(samplers))]
        return [_sample_or_split(logits[row], samplers[row], params[row])[0] for row in rows]


def _sample_batch(
    logits: Tensor, samplers: Sequence[Sampler], params: Sequence[_StepParams]
) -> list[SampledToken | Exception]:
    raw = logits
    logits = _process_logits(logits, samplers, params)
    tokens = logits.argmax(-1)  # NaN counts as the largest
    largest = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    results = torch.where(largest.isfinite(), tokens, NOT_FINITE)
    if logits is not raw:
        finite = raw.amax(-1).isfinite()
        results = torch.where(finite & (results == NOT_FINITE), NOTHING_ALLOWED, results)
        results = torch.where(finite, results, NOT_FINITE)
    random_rows = [row for row, sampler in enumerate(samplers) if not sampler.params.greedy]
    if random_rows:
        rows = torch.tensor(random_rows, device=logits.device)
        draws = _sample_from_distribution(
            logits[rows].float(),
            [samplers[row].params for row in random_rows],
            [params[row].uniform for row in random_rows],
        )
        results[rows] = torch.where(results[rows] < 0, results[rows], draws)
    if all(sampler.params.logprobs is None for sampler in samplers):
        # The one synchronisation with the device.
        return [_token_or_error(SampledToken(result)) for result in results.tolist()]
    return [_token_or_error(one) for one in _with_logprobs(raw, results, samplers)]


def _token_or_error(result: SampledToken) -> SampledToken | Exception:
    """The sampled token, or the error that its negative code stands for."""
    if result.token >= 0:
        return result
    if result.token == NOTHING_ALLOWED:
        return RequestError(MESSAGES[NOTHING_ALLOWED], "logit_bias")
    return GenerationError(MESSAGES[result.token])


def _effective_bias(logit_bias: Mapping[int, float]) -> dict[int, float]:
    """Values added to logits for `logit_bias`: -inf bans a token, a large value forces it."""
    special = {BAN: -torch.inf, FORCE: _FORCED}
    return {token: special.get(value, value) for token, value in logit_bias.items()}


def _process_logits(
    logits: Tensor, samplers: Sequence[Sampler], params: Sequence[_StepParams]
) -> Tensor:
    """Apply penalties, biases and grammar masks to logits (batch, vocabulary).

    Returns:
        The same tensor if there are none.
    """
    penalised = [row for row, sampler in enumerate(samplers) if sampler.seen]
    biased = [row for row, one in enumerate(params) if one.biases]
    masked = [row for row, one in enumerate(params) if one.bitmask is not None]
    if not (penalised or biased or masked):
        return logits
    device, vocabulary = logits.device, logits.shape[-1]
    changed = logits.float().clone()
    for row in penalised:
        ids = [token for token in samplers[row].seen or () if 0 <= token < vocabulary]
        seen = torch.tensor(ids, device=device, dtype=torch.long)
        of_seen, penalty = changed[row, seen], samplers[row].params.repetition_penalty
        changed[row, seen] = torch.where(of_seen > 0, of_seen / penalty, of_seen * penalty)
    if biased:
        cells = [(row, token) for row in biased for token in params[row].biases]
        values = [value for row in biased for value in params[row].biases.values()]
        indices = torch.tensor(cells, device=device).unbind(-1)
        changed.index_put_(indices, torch.tensor(values, device=device), accumulate=True)
    if masked:
        bits = np.stack([np.frombuffer(params[row].bitmask or b"", np.uint8) for row in masked])
        allowed = np.unpackbits(bits, axis=-1, count=vocabulary, bitorder="little").astype(bool)
        forbidden = ~torch.from_numpy(allowed).to(device)
        rows = torch.tensor(masked, device=device)
        changed[rows] = changed[rows].masked_fill(forbidden, -torch.inf)
    return changed


def _sample_from_distribution(
    logits: Tensor, params: Sequence[SamplingParams], uniforms: Sequence[float]
) -> Tensor:
    """Tokens (batch) of logits (batch, vocabulary): top-k, top-p, min-p, inverse transform."""

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=logits.device, dtype=torch.float32).unsqueeze(-1)

    # The largest logit becomes 0 first, so that a low temperature causes no infinities.
    logits = logits - logits.amax(-1, keepdim=True)
    probabilities = (logits / column([one.temperature for one in params])).softmax(-1)
    probabilities, order = probabilities.sort(dim=-1, descending=True, stable=True)
    before = probabilities.cumsum(-1) - probabilities  # sum over more probable tokens
    kept = before < column([one.top_p for one in params])
    ranks = torch.arange(probabilities.shape[-1], device=logits.device)
    kept &= ranks < column([one.top_k or probabilities.shape[-1] for one in params])
    kept &= probabilities >= column([one.min_p for one in params]) * probabilities[:, :1]
    kept &= probabilities > 0  # no masked tokens, even if sums are rounded
    kept[:, 0] = True
    sums = (probabilities * kept).cumsum(-1)
    index = (sums <= column(uniforms) * sums[:, -1:]).sum(-1, keepdim=True)
    # Rounding may bring the index past the last token that is kept.
    last = kept.sum(-1, keepdim=True) - 1
    return order.gather(-1, torch.minimum(index, last)).squeeze(-1)


def _with_logprobs(
    logits: Tensor, results: Tensor, samplers: Sequence[Sampler]
) -> list[SampledToken]:
    """Sampled tokens with their logprobs and top logprobs, where requested."""
    count = max(sampler.params.logprobs or 0 for sampler in samplers)
    logprobs = logits.float().log_softmax(-1)
    own = logprobs.gather(-1, results.clamp(min=0).unsqueeze(-1)).squeeze(-1).tolist()
    values, ids = logprobs.topk(min(count, logprobs.shape[-1]), dim=-1)
    values, ids = values.tolist(), ids.tolist()
    tokens = []
    for row, (token, sampler) in enumerate(zip(results.tolist(), samplers, strict=True)):
        wanted = sampler.params.logprobs
        if wanted is None:
            tokens.append(SampledToken(token))
            continue
        top_logprobs = tuple(map(TopLogprob, ids[row][:wanted], values[row][:wanted]))
        tokens.append(SampledToken(token, own[row], top_logprobs))
    return tokens

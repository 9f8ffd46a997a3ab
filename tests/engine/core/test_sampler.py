"""Sampling: probabilities, top-k, top-p and min-p, seeds, penalties, independent rows."""

import pytest
import torch

from mgm import MGMError
from mgm.engine.core.errors import GenerationError
from mgm.engine.core.sampler import Sampler, sample
from mgm.engine.core.sampling_params import SampledToken, SamplingParams

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0])  # probabilities are 0.64, 0.24, 0.09, 0.03


def draws(count: int, **settings) -> torch.Tensor:
    sampler = Sampler(SamplingParams(**settings))
    return torch.tensor([sample(LOGITS[None], [sampler])[0].token for _ in range(count)])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_follow_probabilities(temperature):
    drawn = draws(4000, temperature=temperature, seed=0)
    share = torch.bincount(drawn, minlength=4) / len(drawn)
    expected = torch.softmax(LOGITS / temperature, -1)
    torch.testing.assert_close(share, expected, atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({"top_p": 0.6}, {0}),
        ({"top_p": 0.65}, {0, 1}),
        ({"top_p": 0.9}, {0, 1, 2}),
        ({"top_p": 1e-9}, {0}),
        ({"top_k": 1}, {0}),
        ({"top_k": 3}, {0, 1, 2}),
        ({"top_k": 100}, {0, 1, 2, 3}),
        ({"min_p": 0.3}, {0, 1}),  # 0.24 is 0.37 times 0.64
        ({"min_p": 0.4}, {0}),
        ({"min_p": 1.0}, {0}),
        ({"min_p": 0.1, "top_k": 2}, {0, 1}),
    ],
)
def test_top_k_top_p_and_min_p(limits, left):
    drawn = draws(600, temperature=1.0, seed=1, **limits)
    assert set(drawn.tolist()) == left
    share = torch.bincount(drawn, minlength=4) / len(drawn)
    chances = LOGITS.softmax(-1) * torch.tensor([token in left for token in range(4)])
    torch.testing.assert_close(share, chances / chances.sum(), atol=0.06, rtol=0)


def test_seeds_are_reproducible():
    first = draws(50, temperature=1.0, seed=7)
    assert torch.equal(first, draws(50, temperature=1.0, seed=7))
    assert not torch.equal(first, draws(50, temperature=1.0, seed=8))
    assert not torch.equal(draws(50, temperature=1.0), draws(50, temperature=1.0))


@pytest.mark.parametrize("temperature", [1e-320, 1e-46, 1e-38, 1e-9, 9e-7, 1e-6, 1e-5])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_tiny_temperatures_and_half_precision(temperature, scale):
    for top_p in (1.0, 0.5):
        samplers = [
            Sampler(SamplingParams(temperature, top_p=top_p, min_p=0.1, seed=0)),
            Sampler(SamplingParams()),
        ]
        first, second = sample(LOGITS.half().repeat(2, 1) * scale, samplers)
        assert first == second == SampledToken(0)


def test_rows_have_independent_parameters():
    def tokens(*settings: SamplingParams) -> list[int]:
        rows = LOGITS.repeat(len(settings), 1)
        samplers = [Sampler(one) for one in settings]
        return [choice.token for _ in range(20) for choice in sample(rows, samplers)]

    ways = [SamplingParams(), SamplingParams(1.0, seed=3)]
    ways += [SamplingParams(2.0, top_k=2, seed=4), SamplingParams()]
    together = tokens(*ways)
    for row, way in enumerate(ways):
        assert together[row :: len(ways)] == tokens(way)


def test_repetition_penalty_equals_transformers():
    from transformers import RepetitionPenaltyLogitsProcessor

    seen = [0, 3]
    sampler = Sampler(SamplingParams(repetition_penalty=2.5), seen)
    theirs = RepetitionPenaltyLogitsProcessor(2.5)
    for _ in range(4):
        expected = int(theirs(torch.tensor([seen]), LOGITS[None].clone()).argmax())
        (choice,) = sample(LOGITS[None], [sampler])
        assert choice.token == expected
        seen.append(expected)


def test_logprobs_equal_the_model():
    ways = [SamplingParams(logprobs=2), SamplingParams(), SamplingParams(0.1, seed=0, logprobs=0)]
    first, second, third = sample(LOGITS.repeat(3, 1), [Sampler(way) for way in ways])
    expected = LOGITS.log_softmax(-1)
    assert first.logprob == pytest.approx(float(expected[0]))
    assert [one.token for one in first.top_logprobs] == [0, 1]
    assert [one.logprob for one in first.top_logprobs] == pytest.approx(expected[:2].tolist())
    assert (second.logprob, second.top_logprobs) == (None, ())
    assert third.logprob == pytest.approx(float(expected[third.token]))
    assert third.top_logprobs == ()


def test_presence_and_frequency_penalties_equal_openai():
    """`logit - presence * (count > 0) - frequency * count`, counting output tokens only."""
    sampler = Sampler(SamplingParams(presence_penalty=0.4, frequency_penalty=0.23), [0, 0, 0])
    counts = torch.zeros(4)
    for _ in range(12):
        expected = int((LOGITS - 0.4 * (counts > 0) - 0.23 * counts).argmax())
        (choice,) = sample(LOGITS[None], [sampler])
        assert choice.token == expected
        counts[expected] += 1
    assert (counts > 0).sum() > 1


@pytest.mark.parametrize(
    ("bias", "left"),
    [
        ({0: -100, 1: -100}, {2, 3}),
        ({3: 100}, {3}),
        ({2: 100, 3: 100, 0: 99}, {2, 3}),
        ({0: -5.0, 1: -5.0, 3: -100}, {0, 1, 2}),
    ],
)
def test_logit_bias_bans_and_forces(bias, left):
    drawn = draws(400, temperature=1.0, seed=1, logit_bias=bias)
    assert set(drawn.tolist()) == left
    assert draws(1, logit_bias=bias).item() in left


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_non_finite_rows_do_not_affect_others(value, temperature):
    ways = [SamplingParams(temperature, seed=3, logprobs=row or None) for row in range(4)]
    alone = [sample(LOGITS[None], [Sampler(way)])[0] for way in ways]
    rows = LOGITS.repeat(4, 1)
    rows[2] = value
    tokens = sample(rows, [Sampler(way) for way in ways])
    assert isinstance(tokens[2], MGMError)
    assert "non-finite" in str(tokens[2])
    assert [tokens[row] for row in (0, 1, 3)] == [alone[row] for row in (0, 1, 3)]


def test_banned_tokens_are_not_an_error():
    """Models ban tokens by -inf; only the maximum must be finite."""
    logits = LOGITS.clone()
    logits[3] = -torch.inf
    (choice,) = sample(logits[None], [Sampler(SamplingParams(logprobs=4))])
    assert choice.token == 0
    assert choice.top_logprobs[-1].logprob == -torch.inf


def test_error_in_a_batch_belongs_to_its_row(monkeypatch):
    original = torch.Tensor.index_put_

    def put(self, indices, values, accumulate=False):
        if (values == 7.0).any():
            raise RuntimeError("row")
        return original(self, indices, values, accumulate)

    monkeypatch.setattr(torch.Tensor, "index_put_", put)
    ways = [SamplingParams(logit_bias={1: bias}) for bias in (3.0, 7.0, 3.0)]
    first, second, third = sample(LOGITS.repeat(3, 1), [Sampler(way) for way in ways])
    assert (first.token, third.token) == (1, 1)
    assert isinstance(second, RuntimeError)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_banning_every_token_is_a_client_error(temperature):
    ways = [SamplingParams(temperature, logit_bias=dict.fromkeys(range(4), -100)), SamplingParams()]
    first, second = sample(LOGITS.repeat(2, 1), [Sampler(way) for way in ways])
    assert isinstance(first, MGMError)
    assert not isinstance(first, GenerationError)
    assert str(first).startswith("logit_bias bans every token")
    assert second == SampledToken(0)

"""The choice of tokens: chances, limits, seeds, and each row in its own way."""

import pytest
import torch

from mgm.engine.core.sampler import Sampler, Sampling, choose

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0])  # chances are 0.64, 0.24, 0.09, 0.03


def draws(count: int, **settings) -> torch.Tensor:
    sampler = Sampler(Sampling(**settings))
    return torch.tensor([choose(LOGITS[None], [sampler])[0].token for _ in range(count)])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_chances(temperature):
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
def test_limits_leave_the_unlikely_out(limits, left):
    drawn = draws(600, temperature=1.0, seed=1, **limits)
    assert set(drawn.tolist()) == left
    share = torch.bincount(drawn, minlength=4) / len(drawn)
    chances = LOGITS.softmax(-1) * torch.tensor([place in left for place in range(4)])
    torch.testing.assert_close(share, chances / chances.sum(), atol=0.06, rtol=0)


def test_seeds_repeat_draws():
    first = draws(50, temperature=1.0, seed=7)
    assert torch.equal(first, draws(50, temperature=1.0, seed=7))
    assert not torch.equal(first, draws(50, temperature=1.0, seed=8))
    assert not torch.equal(draws(50, temperature=1.0), draws(50, temperature=1.0))


def test_tiny_temperatures_and_half_precision():
    sampler = Sampler(Sampling(1e-9, seed=0))
    assert choose(LOGITS.half()[None] * 1000, [sampler])[0].token == 0


def test_each_row_has_its_own_way():
    def tokens(*settings: Sampling) -> list[int]:
        rows = LOGITS.repeat(len(settings), 1)
        samplers = [Sampler(one) for one in settings]
        return [choice.token for _ in range(20) for choice in choose(rows, samplers)]

    ways = [Sampling(), Sampling(1.0, seed=3), Sampling(2.0, top_k=2, seed=4), Sampling()]
    together = tokens(*ways)
    for row, way in enumerate(ways):
        assert together[row :: len(ways)] == tokens(way)


def test_repetition_penalty_is_that_of_transformers():
    from transformers import RepetitionPenaltyLogitsProcessor

    seen = [0, 3]
    sampler = Sampler(Sampling(repetition_penalty=2.5), seen)
    theirs = RepetitionPenaltyLogitsProcessor(2.5)
    for _ in range(4):
        expected = int(theirs(torch.tensor([seen]), LOGITS[None].clone()).argmax())
        (choice,) = choose(LOGITS[None], [sampler])
        assert choice.token == expected
        seen.append(expected)


def test_logprobs_are_those_of_the_model():
    ways = [Sampling(logprobs=2), Sampling(), Sampling(0.1, seed=0, logprobs=0)]
    first, second, third = choose(LOGITS.repeat(3, 1), [Sampler(way) for way in ways])
    expected = LOGITS.log_softmax(-1)
    assert first.logprob == pytest.approx(float(expected[0]))
    assert [one.token for one in first.likeliest] == [0, 1]
    assert [one.logprob for one in first.likeliest] == pytest.approx(expected[:2].tolist())
    assert (second.logprob, second.likeliest) == (None, ())
    assert third.logprob == pytest.approx(float(expected[third.token]))
    assert third.likeliest == ()

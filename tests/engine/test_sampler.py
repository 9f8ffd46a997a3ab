import pytest
import torch

from mgm.engine.sampler import Sampler, choose

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0])


def draws(count, **settings):
    sampler = Sampler(**settings)
    return torch.tensor([sampler.draw(LOGITS) for _ in range(count)])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_chances(temperature):
    drawn = draws(4000, temperature=temperature, seed=0)
    share = torch.bincount(drawn, minlength=4) / len(drawn)
    expected = torch.softmax(LOGITS / temperature, -1)
    torch.testing.assert_close(share, expected, atol=0.03, rtol=0)


def test_top_p_leaves_the_unlikely_out():
    # Chances are 0.64, 0.24, 0.09, 0.03.
    assert set(draws(300, temperature=1.0, top_p=0.6, seed=1).tolist()) == {0}
    assert set(draws(300, temperature=1.0, top_p=0.65, seed=1).tolist()) == {0, 1}
    assert set(draws(300, temperature=1.0, top_p=0.9, seed=1).tolist()) == {0, 1, 2}
    assert set(draws(300, temperature=1.0, top_p=1e-9, seed=1).tolist()) == {0}


def test_seeds_repeat_draws():
    first = draws(50, temperature=1.0, seed=7)
    assert torch.equal(first, draws(50, temperature=1.0, seed=7))
    assert not torch.equal(first, draws(50, temperature=1.0, seed=8))
    assert not torch.equal(draws(50, temperature=1.0), draws(50, temperature=1.0))


def test_tiny_temperatures_and_half_precision():
    assert Sampler(1e-9, seed=0).draw(LOGITS.half() * 1000) == 0


def test_each_row_has_its_own_way():
    logits = LOGITS.repeat(3, 1)
    alone = Sampler(1.0, seed=3).draw(LOGITS)
    assert choose(logits, [Sampler(0), Sampler(1.0, seed=3), Sampler(0)]) == [0, alone, 0]

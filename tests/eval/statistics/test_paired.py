import math
from itertools import product

import numpy as np
import pytest

from mgm.eval.statistics.intervals import clustered_error, effective_sample, sample_of
from mgm.eval.statistics.paired import common_steps, paired_interval, sign_flip_test
from tests.eval.statistics.test_intervals import clustered_answers

TRIALS = 400


def mcnemar(wins, losses):
    """McNemar's exact test: the binomial tail."""
    count = wins + losses
    tail = sum(math.comb(count, k) for k in range(max(wins, losses), count + 1)) / 2**count
    return min(1.0, 2 * tail)


def test_sign_flips_equal_mcnemars_exact_test():
    for wins, losses in product(range(6), range(5)):
        differences = np.array([1.0] * wins + [-1.0] * losses + [0.0] * 7)
        assert sign_flip_test(differences) == pytest.approx(mcnemar(wins, losses))
    for wins, losses in ((15, 5), (60, 40), (300, 240)):  # exact also for many changes
        differences = np.array([0.01] * wins + [-0.01] * losses)
        assert sign_flip_test(differences) == pytest.approx(mcnemar(wins, losses), rel=1e-9)


def test_sign_flips_equal_enumeration():
    """Compared with all combinations of signs."""
    draw = np.random.default_rng(4)
    whole = draw.integers(1, 5, 12) * draw.choice([-1.0, 1.0], 12)
    tried = [abs(sum(np.abs(whole) * signs)) >= abs(whole.sum()) - 1e-9
             for signs in product([-1, 1], repeat=12)]  # fmt: skip
    assert sign_flip_test(whole) == pytest.approx(np.mean(tried))
    odd = whole * draw.uniform(0.9, 1.1, 12)  # no multiples of a step
    tried = [abs(sum(np.abs(odd) * signs)) >= abs(odd.sum()) - 1e-9
             for signs in product([-1, 1], repeat=12)]  # fmt: skip
    assert sign_flip_test(odd) == pytest.approx(np.mean(tried))


def test_common_step():
    assert common_steps(np.array([2.0, 2, 3]) / 7).tolist() == [2, 2, 3]
    assert common_steps(np.array([0.3, 0.6, 1.0])).tolist() == [3, 6, 10]
    assert common_steps(np.array([1.0, math.pi])) is None
    twelve_and_six = np.array([2.0] * 12 + [-3.0] * 6)
    signs = [(a - b) * 2 + (c - d) * 3 for a, b, c, d in
             ((a, 12 - a, c, 6 - c) for a in range(13) for c in range(7))]  # fmt: skip
    weights = [math.comb(12, a) * math.comb(6, c) for a in range(13) for c in range(7)]
    exact = sum(w for w, one in zip(weights, signs, strict=True) if abs(one) >= 6) / 2**18
    assert sign_flip_test(twelve_and_six) == pytest.approx(exact)
    assert sign_flip_test(twelve_and_six / 1170) == pytest.approx(exact)


def test_one_large_change_among_many():
    """Its sign decides the sum, so that p is one half, unlike in a normal approximation."""
    small = np.sort(np.random.default_rng(0).uniform(0.9, 1.1, 20)) * np.tile([1, -1], 10)
    half = sign_flip_test(np.append(small, 100.0))
    assert half == pytest.approx(0.5, abs=0.1)
    whole = np.append(np.tile([1.0, -1.0], 10), 1000.0)
    exact = sum(math.comb(20, n) for n in range(10, 21)) / 2**20
    assert sign_flip_test(whole) == pytest.approx(exact)


def test_changes_without_a_common_step_are_sampled():
    draw = np.random.default_rng(4)
    many = draw.normal(0.1, 1, 400)
    normal = math.erfc(abs(many.sum()) / math.sqrt(2 * many @ many))
    assert sign_flip_test(many) == pytest.approx(normal, abs=0.015)
    assert sign_flip_test(many) == sign_flip_test(many)


def test_sign_flips_by_image():
    """Twenty changed responses about three images are three changes."""
    assert sign_flip_test(np.array([7.0, 7.0, 6.0])) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("sizes", "gain"),
    [([4] * 8, 0.1), ([2] * 40, 0.0), ([1] * 300, 0.05), ([1] * 90 + [30] * 10, 0.1),
     (list(range(1, 31)), 0.05)],
)  # fmt: skip
def test_coverage(sizes, gain):
    draw, held = np.random.default_rng(11), 0
    for _ in range(TRIALS):
        first, groups = clustered_answers(draw, 0.5, sizes, 0.3)
        # Wrong responses become right slightly more often than right ones become wrong.
        up, down = draw.random(len(first)) < 0.1 + 2 * gain, draw.random(len(first)) < 0.1
        second = np.where(first == 0, up, ~down).astype(float)
        sums = np.bincount(groups, second - first) / len(first)
        error = clustered_error(second - first, groups)
        interval = paired_interval(
            (second - first).mean(), error, sums, sample_of(second - first, groups), (-1.0, 1.0)
        )
        held += interval.low <= gain <= interval.high
    assert held / TRIALS > 0.925


def test_interval_of_few_changes():
    """Five of 1,000 questions became right and none wrong: McNemar's exact test gives p = 0.06."""
    changes = np.array([1.0] * 5 + [0.0] * 995) / 1000
    names = list(map(str, range(1000)))
    error = clustered_error(changes * 1000, names)
    interval = paired_interval(
        changes.sum(), error, changes, sample_of(changes, names), (-1.0, 1.0)
    )
    assert interval.low <= 0 < interval.high
    few = effective_sample(np.ones(4), 0.0)
    nothing = paired_interval(
        0.0, 0.0, np.zeros(10), effective_sample(np.ones(10), 0.0), (-1.0, 1.0)
    )
    assert nothing.low < -0.02
    assert nothing.high > 0.02
    assert paired_interval(0.0, 0.0, np.zeros(4), few, (-1.0, 1.0)) is None

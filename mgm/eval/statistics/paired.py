"""Paired sign-flip test and interval of the difference between two models."""

import math
from fractions import Fraction

import numpy as np

from mgm.eval.statistics.intervals import (
    LEVEL,
    MIN_CLUSTERS,
    RESAMPLING_SEED,
    ROUNDING,
    EffectiveSample,
    Interval,
    t_quantile,
)

MAX_SIGNS = 16  # maximum number of changed clusters for enumerating all 2**n signs
MAX_STEPS = 2 * 10**6  # maximum sum of steps for the exact distribution
MAX_DENOMINATOR = 1000  # for differences as fractions of the smallest one
PRECISION = 1e-12  # minimum p-value
DRAWS, DRAWN_AT_ONCE = 10_000, 500  # random sign vectors, if there is no common step


def sign_flip_test(differences: np.ndarray) -> float:
    """The p-value of no difference between two models (sign-flip permutation test).

    Under the null hypothesis the difference in each cluster has either sign. The share of signs
    with a sum at least as large is exact, to `PRECISION`, if differences are multiples of a common
    step, as for credits of 0 and 1 (for single questions this is McNemar's exact test), and for up
    to `MAX_SIGNS` changed clusters. Otherwise it is estimated from `DRAWS` random signs.

    Args:
        differences: differences of clusters (clusters,); zeros are ignored.
    """
    changed = np.abs(differences)
    changed = changed[changed > ROUNDING * changed.max(initial=0)]
    if not len(changed):
        return 1.0
    total = abs(float(differences.sum()))
    steps = common_steps(changed)
    if steps is not None:
        return _exact_share(steps, round(total * steps.sum() / changed.sum()))
    enough = total * (1 - ROUNDING)
    if len(changed) <= MAX_SIGNS:
        sums = np.zeros(1)
        for one in changed:
            sums = np.concatenate([sums + one, sums - one])
        return float(np.mean(np.abs(sums) >= enough))
    draw, hits = np.random.default_rng(RESAMPLING_SEED), 0
    for _ in range(DRAWS // DRAWN_AT_ONCE):
        signs = draw.integers(0, 2, (DRAWN_AT_ONCE, len(changed)), dtype=np.int8)
        hits += int(np.sum(np.abs((2 * signs - 1) @ changed) >= enough))
    return (hits + 1) / (DRAWS + 1)


def common_steps(sizes: np.ndarray) -> np.ndarray | None:
    """Positive sizes as multiples of their largest common step; None: no such step.

    None too if the sum of multiples exceeds `MAX_STEPS`.
    """
    ratios = sizes / sizes.min()
    if ratios.sum() > MAX_STEPS:
        return None
    parts = [Fraction(one).limit_denominator(MAX_DENOMINATOR) for one in np.unique(ratios).tolist()]
    multiple = math.lcm(*(one.denominator for one in parts))
    if multiple > MAX_STEPS / float(ratios.sum()):
        return None
    steps = np.rint(ratios * multiple)
    exact = np.allclose(steps, ratios * multiple, rtol=ROUNDING, atol=0)
    return steps.astype(int) if exact else None


def _exact_share(steps: np.ndarray, total: int) -> float:
    """The share of signs of steps with an absolute sum of at least a total.

    The distribution of the sum is the Fourier transform of its characteristic function, which is a
    product of cosines.
    """
    reach = int(steps.sum())
    if total <= 0:
        return 1.0
    angles = 2 * np.pi * np.arange(2 * reach + 1) / (2 * reach + 1)
    transform = np.ones(2 * reach + 1)
    for step, count in zip(*np.unique(steps, return_counts=True), strict=True):
        transform *= np.cos(angles * step) ** count
    chances = np.fft.ifft(transform).real  # probabilities of the sums 0, 1, …, reach, -reach, …, -1
    return min(max(2 * float(chances[total : reach + 1].sum()), PRECISION), 1.0)


def paired_interval(
    difference: float,
    error: float,
    changes: np.ndarray,
    sample: EffectiveSample,
    bounds: tuple[float, float],
    level: float = LEVEL,
) -> Interval | None:
    """The interval of a difference between two models on the same questions.

    A pseudo-cluster of typical size is added to the variance, so that the interval is not too
    narrow with few changes or none. It includes 0 if `sign_flip_test` does not reject it.

    Source: Agresti and Min, "Simple improved confidence intervals for comparing matched
    proportions" (2005), for the added changes.

    Args:
        difference: difference of the scores.
        error: its standard error, clustered.
        changes: contribution of each changed cluster to the difference (changed clusters,).
        sample: effective sample of the shared questions.
        bounds: minimum and maximum of the difference; may be infinite.
        level: confidence level.

    Returns:
        None with fewer than `MIN_CLUSTERS` effective clusters, or without changes and bounds.
    """
    if sample.clusters < MIN_CLUSTERS or not math.isfinite(error):
        return None
    changes = changes[changes != 0]
    if not len(changes) and not math.isfinite(bounds[1]):
        return None
    # Large clusters change more likely: mean of squares, weighted by size.
    sizes = np.abs(changes) if len(changes) else np.array([bounds[1] / sample.clusters])
    usual = float(np.average(sizes**2, weights=sizes))
    half = t_quantile((1 + level) / 2, sample.freedom) * math.sqrt(error**2 + usual)
    low, high = difference - half, difference + half
    if sign_flip_test(changes) > 1 - level:
        low, high = min(low, 0.0), max(high, 0.0)
    return Interval(max(low, bounds[0]), min(high, bounds[1]))

"""Two-way bootstrap over seeds and images: intervals of scores, simultaneous for a family.

A score is the share of questions answered correctly, over all seeds. Seeds and images are both
random samples, so both are resampled. Questions about one image are dependent, so images are
resampled, not questions.

Coverage, and the level under the null hypothesis, are simulated in
tests/playground/ablation/report/test_statistics.py.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from mgm.eval.statistics.intervals import LEVEL, Interval, t_quantile

DRAWS = 4000
CHUNK = 500  # resamples computed at a time, to limit memory
MIN_IMAGES = 5  # minimum number of images with questions for an interval
EQUIVALENCE = 2.0  # points within which two arms count as equivalent

Verdict = Literal["better", "worse", "equivalent", "undecided"]


@dataclass(frozen=True)
class Estimate:
    """A score or a difference of scores, in points (per cent of questions).

    Attributes:
        value: estimate over all seeds.
        interval: 95 % interval; None with too few images, or if all values are equal, so that
            their variance cannot be estimated.
        seeds: number of seeds; with one seed the interval is of that training alone.
        questions: number of questions per seed.
    """

    value: float
    interval: Interval | None
    seeds: int
    questions: int

    @property
    def verdict(self) -> Verdict:
        """Verdict on a difference: its sign, equivalence within `EQUIVALENCE`, or undecided.

        A significantly positive difference is "better" even if it is within `EQUIVALENCE`.
        """
        if self.interval is None:
            return "undecided"
        if self.interval.low > 0:
            return "better"
        if self.interval.high < 0:
            return "worse"
        inside = self.interval.low > -EQUIVALENCE and self.interval.high < EQUIVALENCE
        return "equivalent" if inside else "undecided"


def estimates(
    right: np.ndarray, totals: np.ndarray, simultaneous: bool = False, draws: int = DRAWS
) -> list[Estimate]:
    """Estimates of one or more scores, or of differences paired by seed and question.

    The two-way bootstrap resamples seeds and images independently of each other. Its variance
    counts the interaction of seeds and images three times (Owen, "The pigeonhole bootstrap", 2007);
    the variances over seeds alone and over images alone, which count it once each, correct this:
    v = 2 (v_seeds + v_images) - v_bootstrap, or the larger of the two if that is more. One seed
    fewer is drawn than there are, which makes the variance of a mean of few seeds unbiased (Rao and
    Wu, "Resampling inference with complex survey data", 1988). The interval is symmetric, with
    Student's t for the degrees of freedom of seeds and images together (Satterthwaite).

    Args:
        right: (scores, seeds, images), the number of right answers about each image; of a
            difference, the number of one arm minus that of the other.
        totals: (images,), the number of questions about each image.
        simultaneous: whether all intervals together have 95 % coverage, by the bootstrap's
            distribution of the largest standardised deviation (max-t); else each has.
        draws: resamples.
    """
    right, totals = right[:, :, totals > 0].astype(float), totals[totals > 0].astype(float)
    seeds, images, questions = right.shape[1], len(totals), int(totals.sum())
    if not questions:
        return [Estimate(math.nan, None, seeds, 0) for _ in right]
    values = 100 * right.sum((1, 2)) / (seeds * questions)
    if images < MIN_IMAGES:
        return [Estimate(float(value), None, seeds, questions) for value in values]
    deviations = resampled(right, totals, draws) - values
    bootstrapped = (deviations**2).mean(0)
    parts = [variances(one, totals) for one in right]
    errors = np.array(
        [
            max(2 * (of_seeds + of_images) - both, of_seeds, of_images) ** 0.5
            for (of_seeds, of_images), both in zip(parts, bootstrapped, strict=True)
        ]
    )
    multipliers = np.array([t_quantile((1 + LEVEL) / 2, freedom(*v, seeds, images)) for v in parts])
    if simultaneous:
        standardised = np.abs(deviations) / np.where(bootstrapped > 0, bootstrapped**0.5, 1)
        largest = float(np.quantile(standardised.max(1), LEVEL))
        usual = NormalDist().inv_cdf((1 + LEVEL) / 2)
        multipliers *= max(largest / usual, 1.0)
    halves = multipliers * errors
    intervals = [
        Interval(float(value - half), float(value + half)) if half > 0 else None
        for value, half in zip(values, halves, strict=True)
    ]
    return [
        Estimate(float(value), interval, seeds, questions)
        for value, interval in zip(values, intervals, strict=True)
    ]


def resampled(right: np.ndarray, totals: np.ndarray, draws: int = DRAWS) -> np.ndarray:
    """Scores of bootstrap resamples (draws, scores), in points; the same resamples for all scores.

    Args:
        right: (scores, seeds, images).
        totals: (images,), above 0.
        draws: resamples.
    """
    random = np.random.default_rng(0)
    scores, seeds, images = right.shape
    drawn = max(seeds - 1, 1)
    values = np.empty((draws, scores))
    for start in range(0, draws, CHUNK):
        count = min(CHUNK, draws - start)
        seed_weights = random.multinomial(drawn, np.full(seeds, 1 / seeds), count)
        image_weights = random.multinomial(images, np.full(images, 1 / images), count)
        total = drawn * (image_weights @ totals)
        for index, one in enumerate(right):
            weighted = ((seed_weights @ one) * image_weights).sum(1)
            values[start : start + count, index] = 100 * weighted / total
    return values


def variances(right: np.ndarray, totals: np.ndarray) -> tuple[float, float]:
    """Variances of a score, in squared points, by its seeds alone and by its images alone.

    Args:
        right: (seeds, images).
        totals: (images,).
    """
    seeds, images = right.shape
    scores = 100 * right.sum(1) / totals.sum()
    of_seeds = float(np.var(scores, ddof=1)) / seeds if seeds > 1 else 0.0
    mean = right.mean(0)
    residuals = 100 * (mean - totals * mean.sum() / totals.sum()) / totals.sum()
    return of_seeds, float(residuals @ residuals) * images / (images - 1)


def freedom(of_seeds: float, of_images: float, seeds: int, images: int) -> float:
    """Degrees of freedom of the sum of two variances.

    Source: Satterthwaite, "An approximate distribution of estimates of variance components" (1946).

    Args:
        of_seeds: variance by seeds.
        of_images: variance by images.
        seeds: number of seeds.
        images: number of images.
    """
    if of_seeds + of_images == 0:
        return images - 1
    parts = of_images**2 / (images - 1) + of_seeds**2 / max(seeds - 1, 1)
    return (of_seeds + of_images) ** 2 / parts


def seed_spread(right: np.ndarray, totals: np.ndarray) -> float | None:
    """Standard deviation of the scores of single seeds, in points; None with one seed.

    Args:
        right: (seeds, images).
        totals: (images,).
    """
    if len(right) < 2:
        return None
    return float(np.std(100 * right.sum(1) / totals.sum(), ddof=1))


def seeds_needed(spread: float, difference: float, max_seeds: int = 100) -> int | None:
    """Number of seeds that detects a difference of two arms with 80 % power.

    Pairing by seed is assumed not to help: the standard deviation of the difference is sqrt(2)
    times that of one arm. The variance by images is ignored, so the result is a minimum.

    Args:
        spread: standard deviation between seeds of one arm, in points.
        difference: difference to detect with a two-sided test at the 5 % level, in points.
        max_seeds: maximum to try; the result is None above it.
    """
    power = NormalDist().inv_cdf(0.8)
    for seeds in range(2, max_seeds + 1):
        error = math.sqrt(2 / seeds) * spread
        if (t_quantile((1 + LEVEL) / 2, seeds - 1) + power) * error <= difference:
            return seeds
    return None

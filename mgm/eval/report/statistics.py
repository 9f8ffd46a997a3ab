"""Confidence intervals and paired tests for scores whose questions come in clusters.

A cluster is what shares an image, or a question asked in several rounds. Intervals hold their level
from `MIN_CLUSTERS` clusters on (tests/eval/report/test_statistics.py simulates it); smaller samples
have none.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

LEVEL = 0.95
MIN_CLUSTERS = 5
MAX_FOLDS = 200  # of the jackknife: more clusters are left out in random groups
MAX_SIGNS = 16  # changed clusters up to which all 2**n signs are tried
MAX_WORK = 2 * 10**7  # additions up to which the distribution of a sum is computed exactly
SEED = 0
ROUNDING = 1e-9  # share of the largest difference below which one is none
WHOLE = ""  # the name of a score itself among its parts


@dataclass(frozen=True)
class Interval:
    """A confidence interval.

    Attributes:
        low: lower end.
        high: upper end.
    """

    low: float
    high: float


def t_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t distribution, to 1e-3 from 4 degrees of freedom on.

    Source: Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.5.
    """
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))


def cluster_sums(values: Sequence[float] | np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """The sum of the values of each cluster (clusters,)."""
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    return np.bincount(index, weights=np.asarray(values, dtype=float))


def clustered_error(values: Sequence[float] | np.ndarray, groups: Sequence[str]) -> float:
    """The standard error of a mean whose values are dependent within a cluster.

    Source: Miller, "Adding Error Bars to Evals" (2024), section 2.2, with the correction
    K / (K - 1) for K clusters.
    """
    residuals = np.asarray(values, dtype=float) - np.mean(values)
    sums = cluster_sums(residuals, groups)
    if len(sums) < 2:
        return math.nan
    return math.sqrt(float(sums @ sums) * len(sums) / (len(sums) - 1)) / len(values)


def bounded_interval(
    value: float,
    error: float,
    clusters: int,
    questions: int,
    spread: float = 1.0,
    level: float = LEVEL,
) -> Interval | None:
    """The interval of a score between 0 and 1, from its standard error.

    Wilson's interval, corrected for continuity, with the effective sample size that the error
    implies, and Student's t for the few clusters that it was estimated from. Where all are right or
    all wrong, an error cannot be estimated: Clopper and Pearson's exact interval of as many
    clusters.

    Source: Korn and Graubard, "Confidence intervals for proportions with small expected number of
    positive counts estimated from survey data" (1998), for the effective size; Newcombe,
    "Two-sided confidence intervals for the single proportion" (1998), method 4.

    Args:
        value: from 0 to 1.
        error: its standard error, clustered.
        clusters: that it was estimated from.
        questions: that were scored.
        spread: variance of single credits as a share of that of a coin with the same mean; 1 where
            answers are right or wrong. The error is taken for no smaller than that of independent
            questions.
        level: of confidence.

    Returns:
        None where there are fewer than `MIN_CLUSTERS` clusters.
    """
    if clusters < MIN_CLUSTERS or not math.isfinite(error):
        return None
    tail = (1 - level) / 2
    if value <= 0:
        return Interval(0.0, 1 - tail ** (1 / clusters))
    if value >= 1:
        return Interval(tail ** (1 / clusters), 1.0)
    most = (questions - 1) / spread
    size = max(1.0, min(value * (1 - value) / error**2, most) if error else most)
    t = t_quantile(1 - tail, clusters - 1)
    return Interval(_wilson_low(value, size, t), 1 - _wilson_low(1 - value, size, t))


def _wilson_low(share: float, size: float, t: float) -> float:
    """The lower end of Wilson's interval with continuity correction."""
    root = t * t - 2 - 1 / size + 4 * share * (size * (1 - share) + 1)
    low = (2 * size * share + t * t - 1 - t * math.sqrt(max(root, 0.0))) / (2 * (size + t * t))
    return min(max(0.0, low), share)


def ratio_interval(
    value: float, error: float, clusters: int, level: float = LEVEL
) -> Interval | None:
    """The interval of a positive score without an upper bound: symmetric on the log scale."""
    if clusters < MIN_CLUSTERS or not math.isfinite(error) or value <= 0:
        return None
    factor = math.exp(t_quantile((1 + level) / 2, clusters - 1) * error / value)
    return Interval(value / factor, value * factor)


def spread_of(credits: Sequence[float]) -> float:
    """The variance of credits from 0 to 1 as a share of that of a coin with the same mean."""
    mean = float(np.mean(credits))
    coin = mean * (1 - mean)
    share = float(np.var(credits)) / coin if coin > 0 else 1.0
    return min(share, 1.0) or 1.0


def mean_interval(
    values: Sequence[float], groups: Sequence[str], scale: float = 1.0
) -> Interval | None:
    """The interval of the mean of values from 0 to 1, times a scale; None: too few clusters."""
    found = bounded_interval(
        float(np.mean(values)),
        clustered_error(values, groups),
        len(set(groups)),
        len(values),
        spread_of(values),
    )
    return found and Interval(found.low * scale, found.high * scale)


@dataclass(frozen=True)
class Jackknifed:
    """A score with its standard error.

    Attributes:
        value: of all questions.
        error: standard error, by leaving clusters out.
        folds: that hold questions of it: the clusters, or random groups of them where there are
            more than `MAX_FOLDS`.
    """

    value: float
    error: float
    folds: int


def jackknife(
    scores: Callable[[Sequence[int]], Mapping[str, tuple[float, int]]], groups: Sequence[str]
) -> dict[str, Jackknifed]:
    """Standard errors of any smooth scores, by leaving one cluster after the other out.

    Args:
        scores: values and numbers of questions by name, of the questions with these indexes.
        groups: the cluster of each question.
    """
    names = np.unique(np.asarray(groups), return_inverse=True)[1]
    count = int(names.max()) + 1
    folds = min(count, MAX_FOLDS)
    fold = np.random.default_rng(SEED).permutation(np.arange(count) % folds)[names]
    whole = scores(range(len(groups)))
    left_out: dict[str, list[float]] = defaultdict(list)
    for number in range(folds if folds > 1 else 0):
        part = scores(np.flatnonzero(fold != number).tolist())
        for name, (value, questions) in part.items():
            if name in whole and questions != whole[name][1]:
                left_out[name].append(value)
    return {
        name: Jackknifed(value, _jackknife_error(left_out[name]), len(left_out[name]))
        for name, (value, _) in whole.items()
    }


def _jackknife_error(values: Sequence[float]) -> float:
    if len(values) < 2:
        return math.nan
    return math.sqrt((len(values) - 1) * float(np.var(values)))


def sign_flip_test(differences: np.ndarray) -> float:
    """The p-value of no difference between two models, from their difference in each cluster.

    Under the hypothesis each cluster's difference could as well have the other sign. The share of
    all signs that give as large a sum is exact where differences are multiples of one step, as
    those of answers that are right or wrong are (with single questions this is McNemar's exact
    test), and for up to `MAX_SIGNS` changed clusters. Otherwise the sum is taken as normal.

    Args:
        differences: (clusters,); zeros, where nothing changed, do not count.
    """
    changed = np.abs(differences)
    changed = changed[changed > ROUNDING * changed.max(initial=0)]
    if not len(changed):
        return 1.0
    total = abs(float(differences.sum()))
    steps = np.rint(changed / changed.min()).astype(int)
    if np.allclose(steps * changed.min(), changed) and len(steps) * steps.sum() <= MAX_WORK:
        chances = np.ones(1)  # of the sums -n, -n + 1, …, n, of steps so far
        for step in steps:
            longer = np.zeros(len(chances) + 2 * step)
            longer[: len(chances)] += chances / 2
            longer[2 * step :] += chances / 2
            chances = longer
        sums = np.abs(np.arange(len(chances)) - steps.sum())
        return float(chances[sums >= round(total / float(changed.min()))].sum())
    if len(changed) > MAX_SIGNS:
        return 2 * NormalDist().cdf(-total / math.sqrt(float(changed @ changed)))
    sums = np.zeros(1)
    for one in changed:
        sums = np.concatenate([sums + one, sums - one])
    return float(np.mean(np.abs(sums) >= total - 1e-9 * (1 + total)))


def paired_interval(
    difference: float,
    error: float,
    changes: np.ndarray,
    clusters: int,
    highest: float | None,
    level: float = LEVEL,
) -> Interval | None:
    """The interval of a difference between two models on the same questions.

    One more changed cluster, of the usual size and of neither sign, is added to the variance, so
    that few changes (or none) do not look certain; and 0 belongs to the interval where
    `sign_flip_test` does not reject it.

    Source: Agresti and Min, "Simple improved confidence intervals for comparing matched
    proportions" (2005), for the added changes.

    Args:
        difference: of the scores.
        error: its standard error, clustered.
        changes: what each changed cluster adds to the difference (changed clusters,).
        clusters: that both models have answered.
        highest: the largest score that there can be; None: it has no bound.
        level: of confidence.

    Returns:
        None where there are fewer than `MIN_CLUSTERS` clusters, or no scale to measure by.
    """
    if clusters < MIN_CLUSTERS or not math.isfinite(error):
        return None
    changes = changes[changes != 0]
    if not len(changes) and highest is None:
        return None
    usual = float(np.mean(changes**2)) if len(changes) else ((highest or 0) / clusters) ** 2
    half = t_quantile((1 + level) / 2, clusters - 1) * math.sqrt(error**2 + usual)
    low, high = difference - half, difference + half
    if sign_flip_test(changes) > 1 - level:
        low, high = min(low, 0.0), max(high, 0.0)
    if highest is not None:
        low, high = max(low, -highest), min(high, highest)
    return Interval(low, high)

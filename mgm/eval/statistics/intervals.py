"""Confidence intervals of scores with clustered questions: clustered errors, jackknife, Wilson.

Standard errors are those of a jackknife over clusters, not of a bootstrap.

A cluster is a group of questions about one image, or a question in several rounds. Intervals have
their nominal coverage from `MIN_CLUSTERS` effective clusters on (simulated in
tests/eval/statistics/test_intervals.py); smaller samples have none.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

LEVEL = 0.95
MIN_CLUSTERS = 5
MAX_FOLDS = 200  # maximum folds of the jackknife; more clusters form random groups
RESAMPLING_SEED = 0
ROUNDING = 1e-9  # relative threshold below which a difference is 0
OVERALL = ""  # key of the score itself among its parts


@dataclass(frozen=True)
class Interval:
    """A confidence interval.

    Attributes:
        low: lower end.
        high: upper end.
    """

    low: float
    high: float


def t_quantile(probability: float, freedom: float) -> float:
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


def cluster_sizes(groups: Sequence[str]) -> np.ndarray:
    """The number of questions of each cluster (clusters,), in the order of `cluster_sums`."""
    return np.unique(np.asarray(groups), return_counts=True)[1]


def clustered_error(values: Sequence[float] | np.ndarray, groups: Sequence[str]) -> float:
    """The standard error of a mean whose values are dependent within a cluster.

    It is that of the jackknife over clusters (CR3), which is not too small with large clusters.

    Source: Miller, "Adding Error Bars to Evals" (2024), section 2.2, for the clusters; Bell and
    McCaffrey, "Bias reduction in standard errors for linear regression with multi-stage samples"
    (2002), for the jackknife.
    """
    residuals = np.asarray(values, dtype=float) - np.mean(values)
    sizes, sums = cluster_sizes(groups), cluster_sums(residuals, groups)
    if len(sums) < 2:
        return math.nan
    shifts = sums / (len(values) - sizes)  # shift of the mean without each cluster
    return math.sqrt(float(shifts @ shifts) * (len(sums) - 1) / len(sums))


@dataclass(frozen=True)
class EffectiveSample:
    """Effective sizes of a sample of clusters of unequal sizes.

    Attributes:
        clusters: number of clusters of equal size with the same variance of the mean, if questions
            of a cluster were perfectly correlated (Kish): (sum of sizes)**2 / sum of squared sizes.
        freedom: degrees of freedom of the variance (Satterthwaite).
        questions: number of independent questions with the same variance of the mean.
    """

    clusters: float
    freedom: float
    questions: float


def effective_sample(sizes: np.ndarray, correlation: float) -> EffectiveSample:
    """The effective sizes of a sample.

    Args:
        sizes: numbers of questions of the clusters (clusters,).
        correlation: intra-cluster correlation of credits, from 0 to 1.

    Source: Kish, "Survey Sampling" (1965), section 5.4, for both sizes; Satterthwaite, "An
    approximate distribution of estimates of variance components" (1946), for the freedom.
    """
    sizes = np.asarray(sizes, dtype=float)
    count = sizes.sum()
    variances = sizes * (1 + (sizes - 1) * correlation)  # variances of the clusters' sums
    freedom = max(variances.sum() ** 2 / (variances @ variances), MIN_CLUSTERS) - 1
    questions = min(count**2 / variances.sum(), count - 1)
    return EffectiveSample(float(count**2 / (sizes @ sizes)), float(freedom), float(questions))


def intra_cluster_correlation(values: Sequence[float] | np.ndarray, groups: Sequence[str]) -> float:
    """The intra-cluster correlation of values, from 0 to 1.

    It is 1 - variance within clusters / variance, with a variance estimated for perfect
    correlation: with few clusters the result is rather too large than too small.
    """
    values, sizes = np.asarray(values, dtype=float), cluster_sizes(groups)
    if len(sizes) == len(values):
        return 0.0
    clusters = len(values) ** 2 / float(sizes @ sizes)
    if clusters <= 1 or np.ptp(values) == 0:
        return 1.0
    squares = float(values @ values) - float(np.sum(cluster_sums(values, groups) ** 2 / sizes))
    within = squares / (len(values) - len(sizes))
    return min(max(1 - within * (1 - 1 / clusters) / float(np.var(values)), 0.0), 1.0)


def sample_of(values: Sequence[float] | np.ndarray, groups: Sequence[str]) -> EffectiveSample:
    """The effective sizes of a sample, by the intra-cluster correlation of its values."""
    return effective_sample(cluster_sizes(groups), intra_cluster_correlation(values, groups))


def bounded_interval(
    value: float,
    error: float,
    sample: EffectiveSample,
    spread: float = 1.0,
    level: float = LEVEL,
) -> Interval | None:
    """The interval of a score between 0 and 1, from its standard error.

    Wilson's interval, corrected for continuity, with the effective sample size that the error
    implies, but no larger one than the correlation within clusters does, and Student's t with the
    degrees of freedom of unequal clusters. If all are right or all are wrong, the error cannot be
    estimated: Clopper and Pearson's exact interval for the number of clusters.

    Source: Korn and Graubard, "Confidence intervals for proportions with small expected number of
    positive counts estimated from survey data" (1998), for the effective size; Newcombe,
    "Two-sided confidence intervals for the single proportion" (1998), method 4.

    Args:
        value: value from 0 to 1.
        error: its standard error, clustered.
        sample: sample that was scored.
        spread: variance of credits relative to a Bernoulli variable of the same mean; 1 if all
            credits are 0 or 1.
        level: confidence level.

    Returns:
        None with fewer than `MIN_CLUSTERS` effective clusters.
    """
    if sample.clusters < MIN_CLUSTERS or not math.isfinite(error):
        return None
    tail = (1 - level) / 2
    if value <= 0:
        return Interval(0.0, 1 - tail ** (1 / sample.clusters))
    if value >= 1:
        return Interval(tail ** (1 / sample.clusters), 1.0)
    largest = sample.questions / spread
    size = max(1.0, min(value * (1 - value) / error**2, largest) if error else largest)
    t = t_quantile(1 - tail, sample.freedom)
    return Interval(_wilson_low(value, size, t), 1 - _wilson_low(1 - value, size, t))


def _wilson_low(share: float, size: float, t: float) -> float:
    """The lower end of Wilson's interval with continuity correction."""
    root = t * t - 2 - 1 / size + 4 * share * (size * (1 - share) + 1)
    low = (2 * size * share + t * t - 1 - t * math.sqrt(max(root, 0.0))) / (2 * (size + t * t))
    return min(max(0.0, low), share)


def ratio_interval(
    value: float, error: float, sample: EffectiveSample, level: float = LEVEL
) -> Interval | None:
    """The interval of a positive score without an upper bound: symmetric on the log scale."""
    if sample.clusters < MIN_CLUSTERS or not math.isfinite(error) or value <= 0:
        return None
    factor = math.exp(t_quantile((1 + level) / 2, sample.freedom) * error / value)
    return Interval(value / factor, value * factor)


def spread_of(credits: Sequence[float]) -> float:
    """The variance of credits from 0 to 1 relative to a Bernoulli variable of the same mean.

    1 if all credits are equal, which does not show how they vary.
    """
    mean = float(np.mean(credits))
    bernoulli = mean * (1 - mean)
    if np.ptp(credits) == 0 or bernoulli <= 0:  # np.var of equal credits is not exactly 0
        return 1.0
    return min(float(np.var(credits)) / bernoulli, 1.0)


def mean_interval(
    values: Sequence[float], groups: Sequence[str], scale: float = 1.0
) -> Interval | None:
    """The interval of the mean of values from 0 to 1, times a scale; None: too few clusters."""
    interval = bounded_interval(
        float(np.mean(values)),
        clustered_error(values, groups),
        sample_of(values, groups),
        spread_of(values),
    )
    return interval and Interval(interval.low * scale, interval.high * scale)


@dataclass(frozen=True)
class Jackknifed:
    """A score with its jackknife standard error.

    Attributes:
        value: score of all questions.
        error: standard error.
        fold_sizes: number of questions in each non-empty fold (folds,). Folds are the
            clusters, or random groups of them where there are more than `MAX_FOLDS`.
        shared: share of pairs of questions in a fold that are in one cluster.
    """

    value: float
    error: float
    fold_sizes: np.ndarray
    shared: float

    def sample(self, correlation: float) -> EffectiveSample:
        """The effective sizes of the sample.

        Args:
            correlation: intra-cluster correlation of credits.
        """
        return effective_sample(self.fold_sizes, correlation * self.shared)


def jackknife(
    scores: Callable[[Sequence[int]], Mapping[str, tuple[float, int]]], groups: Sequence[str]
) -> dict[str, Jackknifed]:
    """Leave-one-cluster-out (jackknife) standard errors of any smooth scores.

    Args:
        scores: values and numbers of questions by name, of the questions with these indexes.
        groups: the cluster of each question.
    """
    names = np.unique(np.asarray(groups), return_inverse=True)[1]
    count = int(names.max()) + 1
    folds = min(count, MAX_FOLDS)
    fold = np.random.default_rng(RESAMPLING_SEED).permutation(np.arange(count) % folds)[names]
    pairs, all_pairs = _pairs(np.bincount(names)), _pairs(np.bincount(fold))
    shared = pairs / all_pairs if all_pairs else 0.0
    whole = scores(range(len(groups)))
    left_out: dict[str, list[float]] = defaultdict(list)
    sizes: dict[str, list[int]] = defaultdict(list)
    for number in range(folds if folds > 1 else 0):
        part = scores(np.flatnonzero(fold != number).tolist())
        for name, (value, questions) in part.items():
            if name in whole and questions != whole[name][1]:
                left_out[name].append(value)
                sizes[name].append(whole[name][1] - questions)
    return {
        name: Jackknifed(value, _jackknife_error(left_out[name]), np.array(sizes[name]), shared)
        for name, (value, _) in whole.items()
    }


def _pairs(sizes: np.ndarray) -> float:
    """Ordered pairs of questions within clusters or folds of these sizes."""
    return float(sizes @ (sizes - 1))


def _jackknife_error(values: Sequence[float]) -> float:
    if len(values) < 2:
        return math.nan
    return math.sqrt((len(values) - 1) * float(np.var(values)))

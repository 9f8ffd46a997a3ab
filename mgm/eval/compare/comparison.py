"""Paired comparison of two models on their shared questions, with clustered statistics."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from mgm.eval.compare.comparable import check_comparable
from mgm.eval.harness.question import Credit, Question
from mgm.eval.report.score import Score, credit_of, restore_questions
from mgm.eval.statistics.intervals import (
    LEVEL,
    MAX_FOLDS,
    OVERALL,
    RESAMPLING_SEED,
    ROUNDING,
    EffectiveSample,
    Interval,
    cluster_sums,
    clustered_error,
    jackknife,
    sample_of,
)
from mgm.eval.statistics.paired import paired_interval, sign_flip_test
from mgm.eval.tasks.benchmark import Benchmark

MARGIN = 2.0  # equivalence margin in per cent of the maximum score
POWER = NormalDist().inv_cdf(0.8)  # quantile for a power of 80 %
MIN_CHANGED = 6  # minimum number of changed images for a sign-flip test to reject at 5 %
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


@dataclass(frozen=True)
class Comparison:
    """Two models compared on the questions of a benchmark that both responded to.

    Attributes:
        benchmark: name and split.
        scorer: protocol and judge.
        first: name of the baseline.
        second: name of the other model.
        first_value: score of the baseline on the shared questions.
        second_value: score of the other model on the shared questions.
        difference: second score minus first.
        interval: 95 % interval of the difference; None: too few images.
        p_value: p-value of the sign-flip test for no difference, clustered by image.
        questions: number of shared questions.
        changed: number of clusters in which credits differ.
        margin: equivalence margin, in points of the score.
        equivalent: whether the difference is within the margin (two one-sided tests at 5 %).
        images: number of clusters.
        needed: number of images that would detect the difference with a power of 80 %; None: not
            more than `images`.
        highest: the maximum score; None: unbounded.
        partial: note on scores that are partial; empty: both are complete.
        remarks: such as settings that differ.
    """

    benchmark: str
    scorer: str
    first: str
    second: str
    first_value: float
    second_value: float
    difference: float
    interval: Interval | None
    p_value: float
    questions: int
    changed: int
    margin: float
    equivalent: bool
    images: int
    needed: int | None
    highest: float | None = 100.0
    partial: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def differ(self) -> bool:
        """Whether the difference is significant: its interval excludes 0."""
        return self.interval is not None and (self.interval.low > 0 or self.interval.high < 0)

    @property
    def verdict(self) -> str:
        """The conclusion, for tables."""
        margin = f"{self.margin:g} points"
        if self.differ:
            better = self.second if self.difference > 0 else self.first
            return f"{better} is better" + (f", by less than {margin}" if self.equivalent else "")
        if self.equivalent:
            return f"the same within {margin}"
        if self.interval is None:
            return "no significant difference: too few images"
        more = f"; about {self.needed:,} images would be needed" if self.needed else ""
        return f"no significant difference{more}"


def compare_scores(
    benchmark: Benchmark,
    scores: tuple[Score, Score],
    names: tuple[str, str],
    margin: float = MARGIN,
) -> Comparison:
    """Compare two models by the benchmark's metric, paired by question and clustered by image.

    Args:
        benchmark: defines the metric.
        scores: scores of the baseline and of another model.
        names: names of both models.
        margin: equivalence margin, in per cent of the maximum score.

    Raises:
        MGMError: the scores share no question, have different judges or data, or were saved by a
            version that is too old.
    """
    one, other = scores
    both = [name for name in one.credits if name in other.credits]
    remarks = check_comparable(one, other, both)
    pair = _Pair(
        benchmark,
        restore_questions(benchmark, one, both),
        [one.groups[name] for name in both],
        [[credit_of(score, name) for name in both] for score in scores],
    )
    first, second = pair.values()
    error, changes = pair.error(), pair.changes()
    highest = benchmark.highest(pair.questions)
    limit, bound = margin * (highest or 100.0) / 100, math.inf if highest is None else highest
    difference, sample = second - first, pair.sample()
    if abs(difference) < ROUNDING * (highest or 100.0):
        difference = 0.0  # rounding of sums in another order

    def interval(level: float) -> Interval | None:
        return paired_interval(difference, error, changes, sample, (-bound, bound), level)

    inner = interval(2 * LEVEL - 1)
    images = len(set(pair.groups))
    return Comparison(
        one.benchmark, one.scorer, *names, first, second, difference, interval(LEVEL),
        p_value=sign_flip_test(changes), questions=len(both), changed=pair.changed, margin=limit,
        equivalent=inner is not None and -limit < inner.low and inner.high < limit, images=images,
        needed=images_needed(difference, error, images, pair.changed),
        highest=highest, partial=partial_note(scores, names), remarks=remarks,
    )  # fmt: skip


def images_needed(difference: float, error: float, images: int, changed: int) -> int | None:
    """The number of images that would detect this difference with a power of 80 %.

    Args:
        difference: difference of two scores.
        error: its standard error.
        images: number of images in the comparison.
        changed: number of images in which credits differ.

    Returns:
        None if it is not more than `images`.
    """
    if not changed or not difference or not math.isfinite(error):
        return None
    needed = images * ((Z + POWER) * error / difference) ** 2
    enough = max(needed, images * MIN_CHANGED / changed)
    return math.ceil(enough) if math.ceil(enough) > images else None


def partial_note(scores: Sequence[Score], names: Sequence[str]) -> str:
    """A note on partial scores; empty: all are complete."""
    parts = [f"{name} {one.questions:,} of {one.expected or 0:,}"
             for one, name in zip(scores, names, strict=True) if not one.complete]  # fmt: skip
    return f"partial: {', '.join(parts)} questions" if parts else ""


class _Pair:
    """Paired credits of two models, with the statistics of the difference of their scores."""

    def __init__(
        self,
        benchmark: Benchmark,
        questions: Sequence[Question],
        groups: Sequence[str],
        credits: Sequence[Sequence[float]],
    ) -> None:
        self.benchmark, self.questions, self.groups = benchmark, questions, groups
        # Object arrays keep the attributes of `Credit`.
        self._credits = np.empty((2, len(groups)), dtype=object)
        self._credits[:] = credits
        self._cluster = np.unique(np.asarray(groups), return_inverse=True)[1]
        pairs = zip(*credits, strict=True)
        differs = np.unique(self._cluster[[_terms(one) != _terms(other) for one, other in pairs]])
        self.changed = len(differs)
        # The fold of each question for exchanging credits between models; -1: unchanged cluster.
        fold = np.full(int(self._cluster.max()) + 1, -1)
        order = np.random.default_rng(RESAMPLING_SEED).permutation(differs)
        fold[order] = np.arange(len(order)) % MAX_FOLDS
        self._fold = fold[self._cluster]

    def values(self) -> tuple[float, float]:
        """The scores of both models."""
        return self._combine(self._credits[0]), self._combine(self._credits[1])

    def error(self) -> float:
        """The standard error of the difference."""
        if self.benchmark.is_mean():
            return 100 * clustered_error(self._credits[1] - self._credits[0], self.groups)

        def scores(indexes: Sequence[int]) -> Mapping[str, tuple[float, int]]:
            some = [self.questions[n] for n in indexes]
            first, second = (
                self.benchmark.combine(some, own[list(indexes)].tolist()) for own in self._credits
            )
            return {OVERALL: (second - first, len(indexes))}

        return jackknife(scores, self.groups)[OVERALL].error

    def sample(self) -> EffectiveSample:
        """The effective sample sizes, by the intra-cluster correlation of differences."""
        return sample_of((self._credits[1] - self._credits[0]).astype(float), self.groups)

    def changes(self) -> np.ndarray:
        """The contribution of each changed cluster to the difference of the scores.

        Credits of a cluster are exchanged between the models and the metric is recomputed; more
        than `MAX_FOLDS` clusters are exchanged in random groups.
        """
        first, second = self._credits
        if self.benchmark.is_mean():
            sums = 100 * cluster_sums(second - first, self.groups) / len(first)
            return sums[np.abs(sums) > ROUNDING]
        values = self.values()
        changes = []
        for number in range(int(self._fold.max()) + 1):
            chosen = self._fold == number
            swapped = [np.where(chosen, other, own) for own, other in
                       ((first, second), (second, first))]  # fmt: skip
            gain = self._combine(swapped[0]) - values[0]
            loss = values[1] - self._combine(swapped[1])
            changes.append((gain + loss) / 2)
        return np.array(changes)

    def _combine(self, credits: np.ndarray) -> float:
        return self.benchmark.combine(self.questions, credits.tolist())


def _terms(credit: float) -> tuple[float, ...]:
    """A credit with its numerator and denominator, if it has them."""
    if isinstance(credit, Credit):
        return float(credit), credit.numerator, credit.denominator
    return (credit,)

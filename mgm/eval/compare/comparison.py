"""Models compared on the questions that they share, by the score that is printed of each."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np

from mgm.errors import MGMError
from mgm.eval.harness.question import Credit, Question
from mgm.eval.report.score import Score, credit_of, load_score, questions_of, score_files
from mgm.eval.report.statistics import (
    LEVEL,
    MAX_FOLDS,
    ROUNDING,
    SEED,
    WHOLE,
    Interval,
    cluster_sums,
    clustered_error,
    jackknife,
    paired_interval,
    sign_flip_test,
)
from mgm.eval.tasks.benchmark import Benchmark

MARGIN = 2.0  # points of 100 within which two models count as the same
POWER = NormalDist().inv_cdf(0.8)  # a difference is detected in four of five cases
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


@dataclass(frozen=True)
class Comparison:
    """Two models on the questions of a benchmark that both have answered.

    Attributes:
        benchmark: its name and split.
        scorer: protocol and judge.
        first: name of the baseline.
        second: name of the other model.
        first_value: score of the baseline on the shared questions.
        second_value: score of the other model on them.
        difference: of the second score from the first.
        interval: 95 % interval of the difference; None: too few images.
        p_value: of no difference, by flipping the models' answers image by image.
        questions: that both have answered.
        changed: clusters of questions in which credits differ.
        margin: largest difference that counts as none, in points of the score.
        equivalent: whether the difference is within the margin (two one-sided tests at 5 %).
        needed: questions of this kind that would detect the difference; None: no number would.
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
    needed: int | None

    @property
    def differ(self) -> bool:
        """Whether the two scores can be told apart."""
        return self.interval is not None and (self.interval.low > 0 or self.interval.high < 0)

    @property
    def verdict(self) -> str:
        """What follows, in words."""
        margin = f"{self.margin:g} points"
        if self.differ:
            better = self.second if self.difference > 0 else self.first
            return f"{better} is better" + (f", by less than {margin}" if self.equivalent else "")
        if self.equivalent:
            return f"the same within {margin}"
        if self.interval is None:
            return "not told apart: too few images"
        more = f"; it would take some {self.needed:,} questions" if self.needed else ""
        return f"not told apart{more}"


def compare_scores(
    benchmark: Benchmark,
    scores: tuple[Score, Score],
    names: tuple[str, str],
    margin: float = MARGIN,
) -> Comparison:
    """Compare two models question by question, clustered, by the benchmark's own score.

    Args:
        benchmark: that combines credits to a score.
        scores: of the baseline and of another model.
        names: of both.
        margin: see `Comparison`, in per cent of the largest score.

    Raises:
        MGMError: the scores have no question in common, or were made by other judges or of other
            data, or by an older version.
    """
    one, other = scores
    both = [name for name in one.credits if name in other.credits]
    _check_comparable(one, other, both)
    pair = _Pair(
        benchmark,
        questions_of(benchmark, one, both),
        [one.groups[name] for name in both],
        [[credit_of(score, name) for name in both] for score in scores],
    )
    first, second = pair.values()
    error, changes = pair.error(), pair.changes()
    clusters, highest = len(set(pair.groups)), benchmark.highest(pair.questions)
    difference = second - first
    limit = margin * (highest or 100.0) / 100

    def interval(level: float) -> Interval | None:
        return paired_interval(difference, error, changes, clusters, highest, level)

    inner = interval(2 * LEVEL - 1)
    needed = None
    if difference and error and math.isfinite(error):
        needed = math.ceil(len(both) * ((Z + POWER) * error / difference) ** 2) or 1
    return Comparison(
        one.benchmark, one.scorer, *names, first, second, difference, interval(LEVEL),
        p_value=sign_flip_test(changes), questions=len(both), changed=pair.changed, margin=limit,
        equivalent=inner is not None and -limit < inner.low and inner.high < limit, needed=needed,
    )  # fmt: skip


def _check_comparable(one: Score, other: Score, both: Sequence[str]) -> None:
    title = f"{one.benchmark}, {one.protocol}"
    if not both:
        raise MGMError(f"{title}: the models have no scored question in common")
    if one.judge != other.judge:
        raise MGMError(f"{title}: judged by {one.judge!r} and by {other.judge!r}; use one judge")
    changed = [name for name in both if one.groups[name] != other.groups[name]
               or one.inputs.get(name) != other.inputs.get(name)]  # fmt: skip
    if changed and bool(one.inputs) == bool(other.inputs):
        raise MGMError(
            f"{title}: question {changed[0]} differs between the models; ask both of the same data"
        )


class _Pair:
    """Two models' credits for the same questions, and what a benchmark makes of them."""

    def __init__(
        self,
        benchmark: Benchmark,
        questions: Sequence[Question],
        groups: Sequence[str],
        credits: Sequence[Sequence[float]],
    ) -> None:
        self.benchmark, self.questions, self.groups = benchmark, questions, groups
        # As objects: a `Credit` is more than its value.
        self._credits = np.empty((2, len(groups)), dtype=object)
        self._credits[:] = credits
        self._cluster = np.unique(np.asarray(groups), return_inverse=True)[1]
        pairs = zip(*credits, strict=True)
        differs = np.unique(self._cluster[[_facts(one) != _facts(other) for one, other in pairs]])
        self.changed = len(differs)
        # The fold that each question is exchanged with between the models; -1: nothing changed.
        fold = np.full(int(self._cluster.max()) + 1, -1)
        order = np.random.default_rng(SEED).permutation(differs)
        fold[order] = np.arange(len(order)) % MAX_FOLDS
        self._fold = fold[self._cluster]

    def values(self) -> tuple[float, float]:
        """Both scores."""
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
            return {WHOLE: (second - first, len(indexes))}

        return jackknife(scores, self.groups)[WHOLE].error

    def changes(self) -> np.ndarray:
        """What each changed cluster adds to the difference of the scores.

        Its credits are exchanged between the models, and the scores combined anew; beyond
        `MAX_FOLDS` changed clusters are taken in random groups.
        """
        first, second = self._credits
        if self.benchmark.is_mean():
            sums = 100 * cluster_sums(second - first, self.groups) / len(first)
            return sums[np.abs(sums) > ROUNDING]
        values = self.values()
        found = []
        for number in range(int(self._fold.max()) + 1):
            chosen = self._fold == number
            swapped = [np.where(chosen, other, own) for own, other in
                       ((first, second), (second, first))]  # fmt: skip
            gain = self._combine(swapped[0]) - values[0]
            loss = values[1] - self._combine(swapped[1])
            found.append((gain + loss) / 2)
        return np.array(found)

    def _combine(self, credits: np.ndarray) -> float:
        return self.benchmark.combine(self.questions, credits.tolist())


def _facts(credit: float) -> tuple[float, ...]:
    """A credit with its numerator and denominator, where it has them."""
    if isinstance(credit, Credit):
        return float(credit), credit.numerator, credit.denominator
    return (credit,)


def compare_folders(
    folders: Sequence[Path], benchmarks: Mapping[str, Benchmark], margin: float = MARGIN
) -> tuple[list[Comparison], list[str]]:
    """Compare outputs of several models with that of the first.

    Args:
        folders: of outputs, the baseline first.
        benchmarks: by their names.
        margin: see `compare_scores`.

    Returns:
        Comparisons, and for each score that could not be compared a line that says why.

    Raises:
        MGMError: no benchmark was scored of two models by one protocol.
    """
    names = folder_names(folders)
    files = [{path.relative_to(one): path for path in score_files(one)}
             for one in folders]  # fmt: skip
    found, problems = [], []
    for name_in_folder, path in sorted(files[0].items()):
        for name, others in zip(names[1:], files[1:], strict=True):
            if name_in_folder not in others:
                continue
            try:
                scores = load_score(path), load_score(others[name_in_folder])
                kind = benchmarks.get(scores[0].benchmark.partition(":")[0])
                if kind is None:
                    raise MGMError(f"{path}: no benchmark is called {scores[0].benchmark!r}")
                if all(score.value is not None for score in scores):
                    found.append(compare_scores(kind, scores, (names[0], name), margin))
            except MGMError as error:
                problems.append(f"{name}: {error}")
    if not found and not problems:
        listed = ", ".join(map(str, folders))
        raise MGMError(f"{listed}: no benchmark was scored of two models by one protocol")
    return found, problems


def folder_names(folders: Sequence[Path]) -> list[str]:
    """A name of each folder: its last part, and as many before it as tell folders apart."""
    parts = [folder.resolve().parts for folder in folders]
    different = len(set(parts))
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-count:]) for one in parts]
        if len(set(names)) == different:
            break
    return names

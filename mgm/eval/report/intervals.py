"""Intervals of a benchmark's score and of its parts, however the score is combined of credits."""

from collections.abc import Sequence

import numpy as np

from mgm.eval.harness.question import Question
from mgm.eval.report.statistics import (
    LEVEL,
    Interval,
    Jackknifed,
    bounded_interval,
    jackknife,
    mean_interval,
    ratio_interval,
    spread_of,
)
from mgm.eval.tasks.benchmark import Benchmark

WHOLE = ""  # the name of the score itself among its parts


def score_intervals(
    benchmark: Benchmark, questions: Sequence[Question], credits: Sequence[float]
) -> dict[str, Interval]:
    """95 % intervals of a score (under `WHOLE`) and of its parts; small samples have none.

    A mean of credits has the clustered error of a mean. Everything else (F1, a sum over kinds,
    questions right in all rounds, a ratio) has the error of the jackknife over clusters.

    Args:
        benchmark: that combines.
        questions: that were scored.
        credits: of each question.
    """
    groups = clusters_of(questions)
    mean = benchmark.is_mean()

    def scores(indexes: Sequence[int]) -> dict[str, tuple[float, int]]:
        some, own = [questions[n] for n in indexes], [credits[n] for n in indexes]
        whole = {} if mean else {WHOLE: (benchmark.combine(some, own), len(own))}
        return whole | benchmark.parts(some, own)

    counts = {name: count for name, (_, count) in scores(range(len(questions))).items()}
    spread = spread_of(np.clip(credits, 0, 1).tolist())
    found = {
        name: interval_of(one, benchmark.highest(questions, name), counts[name], spread)
        for name, one in (jackknife(scores, groups) if counts else {}).items()
    }
    if mean:
        found[WHOLE] = mean_interval(credits, groups, scale=100)
    return {name: interval for name, interval in found.items() if interval is not None}


def interval_of(
    score: Jackknifed, highest: float | None, questions: int, spread: float, level: float = LEVEL
) -> Interval | None:
    """The interval of a score by its error and its largest value; None: a small sample."""
    if highest is None:
        return ratio_interval(score.value, score.error, score.folds, level)
    share, error = score.value / highest, score.error / highest
    found = bounded_interval(share, error, score.folds, questions, spread, level)
    return found and Interval(found.low * highest, found.high * highest)


def clusters_of(questions: Sequence[Question]) -> list[str]:
    """The cluster of each question: its group, or itself alone."""
    return [question.group or question.id for question in questions]

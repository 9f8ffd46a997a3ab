"""How sure a score is, and whether two differ."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

Z = NormalDist().inv_cdf(0.975)  # of a 95 % interval
POWER = NormalDist().inv_cdf(0.8)  # a difference is seen in four of five cases
DRAWS = 1000
SEED = 0


@dataclass(frozen=True)
class Interval:
    """Within which a score lies in 95 % of cases.

    Attributes:
        low: end.
        high: end.
    """

    low: float
    high: float


def clustered_error(values: Sequence[float], groups: Sequence[str]) -> float:
    """The standard error of a mean, where values of one group are not independent.

    Source: Miller, "Adding Error Bars to Evals" (2024), section 2.2.
    """
    mean = sum(values) / len(values)
    sums: dict[str, float] = defaultdict(float)
    for value, group in zip(values, groups, strict=True):
        sums[group] += value - mean
    return math.sqrt(sum(one * one for one in sums.values())) / len(values)


def mean_interval(values: Sequence[float], groups: Sequence[str], scale: float = 1.0) -> Interval:
    """Of the mean of values from 0 to 1, times a scale."""
    mean, error = sum(values) / len(values), clustered_error(values, groups)
    return Interval(max(0.0, mean - Z * error) * scale, min(1.0, mean + Z * error) * scale)


def drawn_interval(score: Callable[[Sequence[int]], float], groups: Sequence[str]) -> Interval:
    """Of any score: whole groups are drawn again and again (bootstrap).

    Args:
        score: of the questions with these numbers, some several times.
        groups: of all questions.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for place, group in enumerate(groups):
        places[group].append(place)
    own = list(places.values())
    draw = np.random.default_rng(SEED)
    scores = []
    for _ in range(DRAWS):
        chosen = draw.integers(0, len(own), len(own))
        scores.append(score([place for group in chosen for place in own[group]]))
    low, high = np.quantile(scores, [0.025, 0.975])
    return Interval(float(low), float(high))


@dataclass(frozen=True)
class Comparison:
    """Two models on the same questions.

    Attributes:
        difference: of the second's mean from the first's, in points of 100.
        interval: of it.
        questions: that both have answered.
        needed: questions of this kind that it takes to tell them apart; None: they are the same.
    """

    difference: float
    interval: Interval
    questions: int
    needed: int | None

    @property
    def differ(self) -> bool:
        """Whether they can be told apart."""
        return self.interval.low > 0 or self.interval.high < 0


def compare(first: Sequence[float], second: Sequence[float], groups: Sequence[str]) -> Comparison:
    """Compare credits question by question, which is much surer than two scores are."""
    differences = [b - a for a, b in zip(first, second, strict=True)]
    mean = sum(differences) / len(differences)
    error = clustered_error(differences, groups)
    interval = Interval(100 * (mean - Z * error), 100 * (mean + Z * error))
    needed = None
    if mean:
        deviation = error * math.sqrt(len(differences))
        needed = math.ceil(((Z + POWER) * deviation / mean) ** 2) or 1
    return Comparison(100 * mean, interval, len(differences), needed)

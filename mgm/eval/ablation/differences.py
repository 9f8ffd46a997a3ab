"""What each ablation changes of a score, and how much of it either encoder accounts for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mgm.errors import MGMError
from mgm.eval.compare.comparison import Comparison, compare_scores
from mgm.eval.report.ablation_table import FULL_MODEL, full_model
from mgm.eval.report.score import Score, credit_of, restore_questions
from mgm.eval.statistics.intervals import (
    WHOLE,
    Interval,
    cluster_sums,
    jackknife,
    sample_of,
)
from mgm.eval.statistics.paired import paired_interval
from mgm.eval.tasks.benchmark import Benchmark


@dataclass(frozen=True)
class AblatedScore:
    """A benchmark's score with one ablation, beside that of the full model.

    Attributes:
        name: of the ablation, as `--ablate` takes it.
        description: what it changes, in words.
        score: with it.
        comparison: of the full model with it, question by question.
    """

    name: str
    description: str
    score: Score
    comparison: Comparison


@dataclass(frozen=True)
class Utilisation:
    """The share of a score that is lost without one encoder.

    u(i) = (score of all encoders - score without encoder i) / score of all encoders, from 1, all of
    the score needs it, through 0, none does, to below 0, it does harm.

    Source: conditional utilisation rate, "Encoder redundancy" (arXiv 2507.03262).

    Attributes:
        encoder: which one is left out.
        rate: u(i).
        interval: its 95 % interval; None: too few images.
    """

    encoder: str
    rate: float
    interval: Interval | None


def ablated(
    benchmark: Benchmark, full: Score, ablations: Mapping[str, tuple[str, Score]]
) -> list[AblatedScore]:
    """The scores of one benchmark with ablations, compared with that of the full model.

    Args:
        benchmark: that combines credits.
        full: score of the full model.
        ablations: description and score of each, by its name.

    Raises:
        MGMError: the answers to a benchmark are known to a server alone.
    """
    if full.value is None:
        raise MGMError(f"{full.benchmark}: only a server knows the answers; ablate another split")
    return [
        AblatedScore(
            name, text, score, compare_scores(benchmark, (full, score), (FULL_MODEL, name))
        )
        for name, (text, score) in ablations.items()
    ]


def utilisation(
    benchmark: Benchmark, full: Score, without: Score, encoder: str
) -> Utilisation | None:
    """How much of a score one encoder accounts for; None: there is nothing to lose.

    The error comes from leaving out one cluster after the other, of both scores.

    Args:
        benchmark: that combines credits.
        full: score with both encoders.
        without: score without one of them.
        encoder: which.
    """
    names = [name for name in full.credits if name in without.credits]
    credits = [[credit_of(one, name) for name in names] for one in (full, without)]
    groups = [full.groups[name] for name in names]
    questions = restore_questions(benchmark, full, names)

    def rate(indexes: Sequence[int]) -> dict[str, tuple[float, int]]:
        some = [questions[n] for n in indexes]
        whole, rest = (benchmark.combine(some, [own[n] for n in indexes]) for own in credits)
        return {WHOLE: (1 - rest / whole, len(some))} if whole > 0 else {}

    if not rate(range(len(names))):
        return None
    found = jackknife(rate, groups)[WHOLE]
    before, after = np.array(credits, dtype=float)
    lost = cluster_sums(before - after, groups)
    interval = paired_interval(
        found.value,
        found.error,
        lost / before.sum(),  # what each cluster adds to the rate of a mean
        sample_of(before - after, groups),
        (-math.inf, 1.0),
    )
    return Utilisation(encoder, found.value, interval)


def as_json(
    full: Score, scores: Sequence[AblatedScore], rates: Sequence[Utilisation]
) -> dict[str, Any]:
    """What ablations.json holds (see `report.ablation_table`); credits stay in each score."""
    return {
        "full_model": full_model(full),
        "ablations": [
            {
                "name": one.name,
                "description": one.description,
                "value": one.comparison.second_value,
                "interval": None if one.score.low is None else [one.score.low, one.score.high],
                "difference": one.comparison.difference,
                "difference_interval": _ends(one.comparison.interval),
                "p_value": one.comparison.p_value,
                "questions": one.comparison.questions,
                "complete": full.complete and one.score.complete,
                "verdict": one.comparison.verdict,
            }
            for one in scores
        ],
        "utilisation": [
            {"encoder": one.encoder, "rate": one.rate, "interval": _ends(one.interval)}
            for one in rates
        ],
    }


def _ends(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]

"""Differences of ablated scores from the full model, and utilisation rates of both encoders."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mgm.errors import MGMError
from mgm.eval.ablation.definitions import Ablation
from mgm.eval.compare.comparison import Comparison, compare_scores
from mgm.eval.report.ablation_table import FULL_MODEL, full_model
from mgm.eval.report.score import Score, credit_of, restore_questions
from mgm.eval.statistics.intervals import (
    OVERALL,
    Interval,
    cluster_sums,
    jackknife,
    sample_of,
)
from mgm.eval.statistics.paired import paired_interval
from mgm.eval.tasks.benchmark import Benchmark


@dataclass(frozen=True)
class AblatedScore:
    """A benchmark's score with one ablation, compared with the full model.

    Attributes:
        name: name of the ablation, as in `--ablate`.
        description: description of the ablation.
        score: score with the ablation.
        comparison: comparison with the full model as baseline, paired by question.
    """

    name: str
    description: str
    score: Score
    comparison: Comparison


@dataclass(frozen=True)
class Utilisation:
    """Conditional utilisation rate: the share of a score that is lost without one encoder.

    u(i) = (score of all encoders - score without encoder i) / score of all encoders. 1: the whole
    score depends on it; 0: nothing does; negative: it does harm.

    Source: conditional utilisation rate, "Encoder redundancy" (arXiv 2507.03262).

    Attributes:
        encoder: encoder that is switched off.
        rate: u(i).
        interval: its 95 % interval; None: too few images.
    """

    encoder: str
    rate: float
    interval: Interval | None


def compare_ablation(
    benchmark: Benchmark, full: Score, ablation: Ablation, score: Score
) -> AblatedScore:
    """Compare the score with an ablation with that of the full model.

    Args:
        benchmark: benchmark that combines credits.
        full: score of the full model.
        ablation: the ablation of `score`.
        score: score with the ablation.

    Raises:
        MGMError: the targets of the benchmark are not public.
    """
    if full.value is None:
        raise MGMError(f"{full.benchmark}: targets are not public; ablate another split")
    comparison = compare_scores(benchmark, (full, score), (FULL_MODEL, ablation.name))
    return AblatedScore(ablation.name, ablation.description, score, comparison)


def utilisation(
    benchmark: Benchmark, full: Score, without: Score, encoder: str
) -> Utilisation | None:
    """The utilisation rate of an encoder; None: the full model's score is 0.

    Its standard error is that of the jackknife over clusters, of both scores together.

    Args:
        benchmark: benchmark that combines credits.
        full: score with both encoders.
        without: score without one of them.
        encoder: its title.
    """
    names = [name for name in full.credits if name in without.credits]
    credits = [[credit_of(score, name) for name in names] for score in (full, without)]
    groups = [full.groups[name] for name in names]
    questions = restore_questions(benchmark, full, names)

    def rate(indexes: Sequence[int]) -> dict[str, tuple[float, int]]:
        some = [questions[n] for n in indexes]
        whole, rest = (benchmark.combine(some, [values[n] for n in indexes]) for values in credits)
        return {OVERALL: (1 - rest / whole, len(some))} if whole > 0 else {}

    if not rate(range(len(names))):
        return None
    estimate = jackknife(rate, groups)[OVERALL]
    before, after = np.array(credits, dtype=float)
    lost = cluster_sums(before - after, groups)
    interval = paired_interval(
        estimate.value,
        estimate.error,
        lost / before.sum(),  # contribution of each cluster to the rate of a mean
        sample_of(before - after, groups),
        (-math.inf, 1.0),
    )
    return Utilisation(encoder, estimate.value, interval)


def as_json(
    full: Score, scores: Sequence[AblatedScore], rates: Sequence[Utilisation]
) -> dict[str, Any]:
    """The content of ablations.json (see `report.ablation_table`), without credits."""
    return {
        "full_model": full_model(full),
        "ablations": [
            {
                "name": ablation.name,
                "description": ablation.description,
                "value": ablation.comparison.second_value,
                "interval": None
                if ablation.score.low is None
                else [ablation.score.low, ablation.score.high],
                "difference": ablation.comparison.difference,
                "difference_interval": _ends(ablation.comparison.interval),
                "p_value": ablation.comparison.p_value,
                "questions": ablation.comparison.questions,
                "complete": full.complete and ablation.score.complete,
                "verdict": ablation.comparison.verdict,
            }
            for ablation in scores
        ],
        "utilisation": [
            {
                "encoder": ablation.encoder,
                "rate": ablation.rate,
                "interval": _ends(ablation.interval),
            }
            for ablation in rates
        ],
    }


def _ends(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]

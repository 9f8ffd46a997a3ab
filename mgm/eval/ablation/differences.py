"""What each ablation changes of a score, and how much of it either encoder accounts for."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mgm.errors import MGMError
from mgm.eval.compare.comparison import Comparison, compare_scores
from mgm.eval.harness.question import Question
from mgm.eval.report.score import Score, credit_of, question_of
from mgm.eval.report.statistics import (
    WHOLE,
    Interval,
    cluster_sums,
    jackknife,
    paired_interval,
)
from mgm.eval.tasks.benchmark import Benchmark

FULL_MODEL = "full model"
COLUMNS = ("benchmark", "ablation", "score", "difference (95 %)", "questions", "verdict")


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
        benchmark: its name and split.
        encoder: which one is left out.
        rate: u(i).
        interval: its 95 % interval; None: too few images.
    """

    benchmark: str
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
    questions = [
        Question(name, "", group=full.groups[name])
        if benchmark.is_mean()
        else question_of(full, name)
        for name in names
    ]

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
        len(lost),
        1.0 if found.value > -1 else None,
    )
    return Utilisation(full.benchmark, encoder, found.value, interval)


def ablations_table(full: Score, scores: Sequence[AblatedScore]) -> str:
    """A line for the full model and for each ablation of one benchmark, in Markdown."""
    value = "" if full.value is None else f"{full.value:.1f}{_within(full.low, full.high)}"
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    rows += [(full.benchmark, FULL_MODEL, value, "", str(full.questions), "")]
    rows += [_row(one) for one in scores]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(one: AblatedScore) -> tuple[str, ...]:
    found, score = one.comparison, one.score
    ends = found.interval
    return (
        score.benchmark,
        f"{one.name}: {one.description}",
        f"{found.second_value:.1f}{_within(score.low, score.high)}",
        f"{found.difference:+.1f}"
        + (" (too few images)" if ends is None else f" ({ends.low:+.1f} to {ends.high:+.1f})"),
        str(found.questions),
        found.verdict,
    )


def _within(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" ({low:.1f} to {high:.1f})"


def utilisation_line(one: Utilisation) -> str:
    """A rate in words."""
    ends = one.interval
    text = "too few images" if ends is None else f"95 %: {ends.low:.2f} to {ends.high:.2f}"
    return f"{one.benchmark}: utilisation of the {one.encoder} {one.rate:.2f} ({text})\n"


def as_json(scores: Sequence[AblatedScore], rates: Sequence[Utilisation]) -> dict[str, Any]:
    """Ablations and rates for results.json; credits stay in each score.json."""
    return {
        "ablations": [
            {
                "name": one.name,
                "description": one.description,
                "value": one.score.value,
                "low": one.score.low,
                "high": one.score.high,
                "comparison": asdict(one.comparison),
            }
            for one in scores
        ],
        "utilisation": [asdict(one) for one in rates],
    }

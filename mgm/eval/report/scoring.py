"""Scores responses: credits of questions, the metric, its parts, and confidence intervals."""

import logging
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from mgm.errors import MGMError, one_line
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import DATA_ERRORS, Credit, Question, Response, SkippedQuestion
from mgm.eval.report.score import Score, combine_inputs, parsed_answer, question_hash
from mgm.eval.statistics.intervals import (
    LEVEL,
    OVERALL,
    Interval,
    Jackknifed,
    bounded_interval,
    intra_cluster_correlation,
    jackknife,
    mean_interval,
    ratio_interval,
    spread_of,
)
from mgm.eval.tasks.benchmark import Benchmark
from mgm.eval.tasks.thinking import THINKING_TAGS

logger = logging.getLogger("mgm.eval")
JUDGE_THREADS = 16


def score_responses(
    benchmark: Benchmark,
    split: str,
    protocol: str,
    questions: Sequence[Question],
    responses: Sequence[Response],
    judge: Judge,
    skipped: Sequence[SkippedQuestion] = (),
    without_thinking: bool = False,
) -> Score:
    """Score the responses to a benchmark; those that cannot be scored are skipped.

    Args:
        benchmark: benchmark of the responses.
        split: split of the benchmark.
        protocol: protocol of the scoring rules.
        questions: all questions of the split.
        responses: responses to score.
        judge: judge of free-form responses.
        skipped: records and questions without a response.
        without_thinking: remove reasoning blocks in all protocols.

    Raises:
        MGMError: there are no responses, or none can be scored.
    """
    if not responses:
        reason = f" ({skipped[0].id}: {skipped[0].reason})" if skipped else " yet"
        raise MGMError(f"{benchmark.name}: no responses{reason}")
    ids = {question.id for question in questions}
    records = len(questions) + sum(one.id not in ids for one in skipped)
    filtered = [benchmark.filter_response(one, protocol, without_thinking) for one in responses]
    counts = _counts(benchmark, protocol, filtered)
    if counts["unparsed"] == len(filtered) and all(_has_thinking(one.text) for one in filtered):
        logger.warning(
            "%s: every response has a reasoning block, and none can be parsed; remove the blocks "
            "with --strip-thinking", benchmark.name,
        )  # fmt: skip
    common: dict[str, Any] = {
        "benchmark": f"{benchmark.name}:{split}",
        "title": benchmark.title,
        "metric": benchmark.metric,
        "protocol": protocol,
        "judge": judge.name if protocol in benchmark.judged else "",
        "expected": benchmark.expected(split, protocol) or records,
        "counts": counts,
    }
    if split not in benchmark.scored_splits:
        nothing: dict[str, Any] = {"parts": {}, "credits": {}, "groups": {}}
        common |= {"questions": len(responses), "skipped": tuple(skipped)}
        return Score(value=None, low=None, high=None, **common, **nothing)
    credits = _credits(benchmark, protocol, filtered, judge)
    pairs = [
        (one.question, credit)
        for one, credit in zip(responses, credits, strict=True)
        if not isinstance(credit, SkippedQuestion)
    ]
    unscored = [credit for credit in credits if isinstance(credit, SkippedQuestion)]
    if not pairs:
        raise MGMError(f"{benchmark.name}: no response can be scored ({unscored[0].reason})")
    return Score(
        questions=len(pairs),
        skipped=(*skipped, *unscored),
        **common,
        **_combined(benchmark, [one for one, _ in pairs], [credit for _, credit in pairs]),
    )


def _combined(
    benchmark: Benchmark, questions: Sequence[Question], credits: Sequence[float]
) -> dict[str, Any]:
    """The fields of a score that are computed from credits."""
    intervals = {
        name: (one.low, one.high)
        for name, one in score_intervals(benchmark, questions, credits).items()
    }
    low, high = intervals.pop(OVERALL, (None, None))
    ids = [question.id for question in questions]
    parts, highest = benchmark.parts(questions, credits), benchmark.highest(questions)
    limits = {name: benchmark.highest(questions, name) for name in parts}
    return {
        "value": benchmark.combine(questions, credits),
        "low": low,
        "high": high,
        "parts": parts,
        "intervals": intervals,
        "highest": highest,
        "part_highest": {name: one for name, one in limits.items() if one != highest},
        "headline": benchmark.headline,
        "credits": dict(zip(ids, map(float, credits), strict=True)),
        "groups": dict(zip(ids, clusters_of(questions), strict=True)),
        "question_hashes": {one.id: question_hash(one) for one in questions},
        "inputs": {}
        if benchmark.is_mean()
        else {one.id: combine_inputs(benchmark, one) for one in questions},
        "fractions": {
            name: (credit.numerator, credit.denominator)
            for name, credit in zip(ids, credits, strict=True)
            if isinstance(credit, Credit)
        },
        "notes": {
            name: credit.note
            for name, credit in zip(ids, credits, strict=True)
            if isinstance(credit, Credit) and credit.note
        },
    }


def _has_thinking(text: str) -> bool:
    return any(closing in text for _, closing in THINKING_TAGS)


def _counts(benchmark: Benchmark, protocol: str, responses: Sequence[Response]) -> dict[str, int]:
    return {
        "cut": sum(one.finish_reason == "length" for one in responses),
        "empty": sum(not one.text.strip() for one in responses),
        "unparsed": sum(parsed_answer(benchmark, one, protocol) == "" for one in responses),
        "sampled": sum(bool(one.sampled) for one in responses),
    }


def _credits(
    benchmark: Benchmark, protocol: str, responses: Sequence[Response], judge: Judge
) -> list[float | SkippedQuestion]:
    """The credit of each response; a judge model is prompted in parallel."""

    def credit(one: Response) -> float | SkippedQuestion:
        try:
            credit = benchmark.score_one(one, protocol, judge)
            return credit if isinstance(credit, Credit) else float(credit)
        except MGMError as error:  # such as an unavailable judge
            return SkippedQuestion(one.question.id, str(error))
        except DATA_ERRORS as error:  # a record or response of an unexpected form
            reason = f"response cannot be scored ({type(error).__name__}: {error})"
            return SkippedQuestion(one.question.id, one_line(reason)[:300])

    if not (protocol in benchmark.judged and judge.is_model):
        return [credit(one) for one in responses]
    with ThreadPoolExecutor(JUDGE_THREADS) as pool:
        try:
            return list(pool.map(credit, responses))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def score_intervals(
    benchmark: Benchmark, questions: Sequence[Question], credits: Sequence[float]
) -> dict[str, Interval]:
    """95 % intervals of a score (key `OVERALL`) and of its parts; small samples have none.

    A mean of credits has a clustered standard error. All other metrics (F1, sums over categories,
    circular accuracy, ratios) have the standard error of the jackknife over clusters.

    Args:
        benchmark: defines the metric.
        questions: questions that were scored.
        credits: credits of each question.
    """
    groups = clusters_of(questions)
    mean = benchmark.is_mean()

    def scores(indexes: Sequence[int]) -> dict[str, tuple[float, int]]:
        some, own = [questions[n] for n in indexes], [credits[n] for n in indexes]
        whole = {} if mean else {OVERALL: (benchmark.combine(some, own), len(own))}
        return whole | benchmark.parts(some, own)

    clipped = np.clip(np.array(credits, dtype=float), 0, 1)
    correlation, spread = intra_cluster_correlation(clipped, groups), spread_of(clipped.tolist())
    jackknifed = jackknife(scores, groups) if scores(range(len(questions))) else {}
    intervals = {
        name: score_interval(one, benchmark.highest(questions, name), correlation, spread)
        for name, one in jackknifed.items()
    }
    if mean:
        intervals[OVERALL] = mean_interval(credits, groups, scale=100)
    return {name: interval for name, interval in intervals.items() if interval is not None}


def score_interval(
    score: Jackknifed,
    highest: float | None,
    correlation: float,
    spread: float,
    level: float = LEVEL,
) -> Interval | None:
    """The interval of a score from its standard error and maximum; None: a small sample.

    Args:
        score: score with its standard error.
        highest: the maximum; None: unbounded.
        correlation: intra-cluster correlation of credits.
        spread: see `bounded_interval`.
        level: confidence level.
    """
    if not math.isfinite(score.error):
        return None
    sample = score.sample(correlation)
    if highest is None:
        return ratio_interval(score.value, score.error, sample, level)
    interval = bounded_interval(score.value / highest, score.error / highest, sample, spread, level)
    return interval and Interval(interval.low * highest, interval.high * highest)


def clusters_of(questions: Sequence[Question]) -> list[str]:
    """The cluster of each question: its group, or itself alone."""
    return [question.group or question.id for question in questions]

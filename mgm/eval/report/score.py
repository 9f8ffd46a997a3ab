"""A score with all that it takes to compare it: protocol, judge, interval, and what is missing."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mgm.atomic import atomic_file
from mgm.errors import MGMError, one_line
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.openai_client import EndpointUnavailableError
from mgm.eval.harness.question import Answered, Credit, Question, SkippedQuestion
from mgm.eval.report.intervals import WHOLE, clusters_of, score_intervals
from mgm.eval.tasks.benchmark import Benchmark
from mgm.eval.tasks.files import DATA_ERRORS, read_json

JUDGED_AT_ONCE = 16
FORMAT = 2  # of score.json; 1 had neither `inputs` nor `intervals`


@dataclass(frozen=True)
class Score:
    """What a model reached in a benchmark.

    Attributes:
        benchmark: its name and split, such as "textvqa:val".
        title: for people.
        metric: what `value` is.
        protocol: by which was asked and scored.
        judge: who scored free answers; empty: nobody had to.
        value: the score; None: the answers are known to a server alone.
        low: lower end of its 95 % interval; None: too few images, or no value.
        high: upper end of its 95 % interval.
        questions: that were scored.
        expected: that the benchmark has; None: nobody knows.
        parts: score and number of questions of each category.
        credits: of every question, by its id.
        groups: of every question, by its id.
        skipped: questions that were left out because they could not be asked or scored.
        intervals: 95 % intervals of parts, by their names; small ones have none.
        inputs: what `Benchmark.combine` reads of every question besides, by its id; empty where the
            score is the mean of credits.
        counts: of answers that were "cut" by the token limit, "empty", or "unparsed".
        fractions: numerator and denominator of credits that are a `Credit`, by the questions' ids.
        highest: the largest value that there can be; None: no bound.
        part_highest: the same of parts, where it is another.
        headline: parts that stand for the score in tables.
        run: how it came about (see `mgm.eval.report.run_info`).
        format: of the file; it grows when the meaning of a field changes.
    """

    benchmark: str
    title: str
    metric: str
    protocol: str
    judge: str
    value: float | None
    low: float | None
    high: float | None
    questions: int
    expected: int | None
    parts: dict[str, tuple[float, int]]
    credits: dict[str, float] = field(repr=False)
    groups: dict[str, str] = field(repr=False)
    skipped: tuple[SkippedQuestion, ...] = ()
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    counts: dict[str, int] = field(default_factory=dict)
    fractions: dict[str, tuple[float, float]] = field(default_factory=dict, repr=False)
    highest: float | None = 100.0
    part_highest: dict[str, float | None] = field(default_factory=dict)
    headline: tuple[str, ...] = ()
    run: dict[str, Any] = field(default_factory=dict, repr=False)
    format: int = FORMAT

    @property
    def complete(self) -> bool:
        """Whether all questions of the benchmark were scored."""
        return self.expected is None or self.questions == self.expected

    @property
    def scorer(self) -> str:
        """Protocol and judge in words."""
        return self.protocol + (f", judged by {self.judge}" if self.judge else "")


def scored(
    benchmark: Benchmark,
    split: str,
    protocol: str,
    questions: Sequence[Question],
    answered: Sequence[Answered],
    judge: Judge,
    skipped: Sequence[SkippedQuestion] = (),
) -> Score:
    """Score what was answered; an answer that cannot be scored is left out, and named.

    Args:
        benchmark: that was asked.
        split: of it.
        protocol: by which is scored.
        questions: all there are, asked or not.
        answered: those that have answers.
        judge: of free answers.
        skipped: records and questions that could not be asked.

    Raises:
        MGMError: nothing was answered, no answer can be scored, or the judge replies to nobody.
    """
    if not answered:
        reason = f" ({skipped[0].id}: {skipped[0].reason})" if skipped else " yet"
        raise MGMError(f"{benchmark.name}: nothing was answered{reason}")
    records = len(questions) + sum(one.id not in {q.id for q in questions} for one in skipped)
    facts: dict[str, Any] = {
        "benchmark": f"{benchmark.name}:{split}",
        "title": benchmark.title,
        "metric": benchmark.metric,
        "protocol": protocol,
        "judge": judge.name if protocol in benchmark.judged else "",
        "expected": benchmark.expected(split, protocol) or records,
        "counts": _counts(benchmark, protocol, answered),
    }
    if split not in benchmark.scored:
        nothing: dict[str, Any] = {"parts": {}, "credits": {}, "groups": {}}
        facts |= {"questions": len(answered), "skipped": tuple(skipped)}
        return Score(value=None, low=None, high=None, **facts, **nothing)
    found = _credits(benchmark, protocol, answered, judge)
    pairs = [
        (one.question, credit)
        for one, credit in zip(answered, found, strict=True)
        if not isinstance(credit, SkippedQuestion)
    ]
    faults = [credit for credit in found if isinstance(credit, SkippedQuestion)]
    if not pairs:
        raise MGMError(f"{benchmark.name}: no answer can be scored ({faults[0].reason})")
    return Score(
        questions=len(pairs),
        skipped=(*skipped, *faults),
        **facts,
        **_combined(benchmark, [one for one, _ in pairs], [credit for _, credit in pairs]),
    )


def _combined(
    benchmark: Benchmark, questions: Sequence[Question], credits: Sequence[float]
) -> dict[str, Any]:
    """The fields of a score that follow from credits."""
    intervals = {
        name: (one.low, one.high)
        for name, one in score_intervals(benchmark, questions, credits).items()
    }
    low, high = intervals.pop(WHOLE, (None, None))
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
        "inputs": {}
        if benchmark.is_mean()
        else {one.id: _inputs(benchmark, one) for one in questions},
        "fractions": {
            name: (credit.numerator, credit.denominator)
            for name, credit in zip(ids, credits, strict=True)
            if isinstance(credit, Credit)
        },
    }


def _counts(
    benchmark: Benchmark, protocol: str, answered: Sequence[Answered]
) -> dict[str, int]:
    return {
        "cut": sum(one.finish_reason == "length" for one in answered),
        "empty": sum(not one.text.strip() for one in answered),
        "unparsed": sum(benchmark.parse(one, protocol) == "" for one in answered),
    }


def _inputs(benchmark: Benchmark, question: Question) -> dict[str, Any]:
    """What `combine` reads of a question, so that `question_of` can make one like it."""
    answer = question.answer if isinstance(question.answer, str | int | float) else None
    facts = {name: question.facts[name] for name in benchmark.combine_facts
             if name in question.facts}  # fmt: skip
    return {"category": question.category, "answer": answer, "facts": facts}


def question_of(score: Score, name: str) -> Question:
    """A question of a saved score, with what `Benchmark.combine` reads of it.

    Raises:
        MGMError: the score was saved without that.
    """
    found = score.inputs.get(name)
    if found is None:
        raise MGMError(
            f"{score.benchmark}, {score.protocol}: score.json was written by an older version, "
            "without what this score is combined of; run again with --score-only"
        )
    return Question(name, "", group=score.groups[name], **found)


def credit_of(score: Score, name: str) -> float:
    """A credit of a saved score, with its numerator and denominator where it has them."""
    credit, fraction = score.credits[name], score.fractions.get(name)
    return credit if fraction is None else Credit(credit, *fraction)


def _credits(
    benchmark: Benchmark, protocol: str, answered: Sequence[Answered], judge: Judge
) -> list[float | SkippedQuestion]:
    """Of every answer; a judge is asked about several at a time.

    Raises:
        EndpointUnavailableError: the judge replies to nobody.
    """

    def credit(one: Answered) -> float | SkippedQuestion:
        try:
            found = benchmark.credit(one, protocol, judge)
            return found if isinstance(found, Credit) else float(found)
        except EndpointUnavailableError:
            raise
        except MGMError as error:
            return SkippedQuestion(one.question.id, str(error))
        except DATA_ERRORS as error:  # a record or an answer that its scorer did not expect
            reason = f"its answer cannot be scored ({type(error).__name__}: {error})"
            return SkippedQuestion(one.question.id, one_line(reason)[:300])

    if not (protocol in benchmark.judged and judge.is_model):
        return [credit(one) for one in answered]
    with ThreadPoolExecutor(JUDGED_AT_ONCE) as pool:
        try:
            return list(pool.map(credit, answered))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def save_score(score: Score, path: Path) -> None:
    """Write a score for machines.

    Raises:
        MGMError: it cannot be written; nothing half-done stays.
    """
    content = asdict(score) | {"complete": score.complete}
    with atomic_file(path) as part:
        part.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def load_score(path: Path) -> Score:
    """Read what `save_score` wrote.

    Raises:
        MGMError: it did not write that.
    """
    content = read_json(path)
    try:
        content = {"format": 1} | content
        known = {one.name for one in fields(Score)}
        return Score(
            **{name: value for name, value in content.items() if name in known}
            | {
                "parts": {
                    name: (float(value), int(count))
                    for name, (value, count) in content["parts"].items()
                },
                "intervals": {
                    name: (float(low), float(high))
                    for name, (low, high) in content.get("intervals", {}).items()
                },
                "credits": {name: float(one) for name, one in content["credits"].items()},
                "groups": {name: str(content["groups"][name]) for name in content["credits"]},
                "fractions": {
                    name: (float(above), float(below))
                    for name, (above, below) in content.get("fractions", {}).items()
                },
                "skipped": tuple(SkippedQuestion(**one) for one in content.get("skipped", ())),
                "headline": tuple(content.get("headline", ())),
            }
        )
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise MGMError(f"{path}: is no score of ours ({error})") from error

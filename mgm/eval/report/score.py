"""A score with all that it takes to compare it: protocol, judge, interval, and what is missing."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mgm.atomic import atomic_file
from mgm.errors import MGMError, one_line
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.openai_client import EndpointUnavailableError
from mgm.eval.harness.question import DATA_ERRORS, Answered, Question, SkippedQuestion
from mgm.eval.report.statistics import Interval, drawn_interval, mean_interval
from mgm.eval.tasks.benchmark import Benchmark
from mgm.eval.tasks.files import read_json, staged_files

JUDGED_AT_ONCE = 16


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
        low: end of its 95 % interval.
        high: end of its 95 % interval.
        questions: that were scored.
        expected: that the benchmark has; None: nobody knows.
        parts: score and number of questions of each category.
        credits: of every question, by its id.
        groups: of every question, by its id.
        skipped: questions that were left out because they could not be asked or scored.
    """

    benchmark: str
    title: str
    metric: str
    protocol: str
    judge: str
    value: float | None
    low: float
    high: float
    questions: int
    expected: int | None
    parts: dict[str, tuple[float, int]]
    credits: dict[str, float] = field(repr=False)
    groups: dict[str, str] = field(repr=False)
    skipped: tuple[SkippedQuestion, ...] = ()

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
    without_thinking: bool = False,
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
        without_thinking: whether blocks of reasoning are taken out of answers in every protocol.

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
    }
    if split not in benchmark.scored:
        nothing: dict[str, Any] = {"parts": {}, "credits": {}, "groups": {}}
        facts |= {"questions": len(answered), "skipped": tuple(skipped)}
        return Score(value=None, low=0.0, high=0.0, **facts, **nothing)
    cleaned = [benchmark.cleaned(one, protocol, without_thinking) for one in answered]
    found = _credits(benchmark, protocol, cleaned, judge)
    pairs = [
        (one.question, credit)
        for one, credit in zip(answered, found, strict=True)
        if not isinstance(credit, SkippedQuestion)
    ]
    faults = [credit for credit in found if isinstance(credit, SkippedQuestion)]
    if not pairs:
        raise MGMError(f"{benchmark.name}: no answer can be scored ({faults[0].reason})")
    own, credits = [question for question, _ in pairs], [credit for _, credit in pairs]
    groups = [question.group or question.id for question in own]

    def of_some(places: Sequence[int]) -> float:
        return benchmark.combine([own[n] for n in places], [credits[n] for n in places])

    interval: Interval
    if benchmark.is_mean():
        interval = mean_interval(credits, groups, scale=100)
    else:
        interval = drawn_interval(of_some, groups)
    return Score(
        value=benchmark.combine(own, credits),
        low=interval.low,
        high=interval.high,
        questions=len(own),
        parts=benchmark.parts(own, credits),
        credits={question.id: credit for question, credit in pairs},
        groups={question.id: group for question, group in zip(own, groups, strict=True)},
        skipped=(*skipped, *faults),
        **facts,
    )


def _credits(
    benchmark: Benchmark, protocol: str, answered: Sequence[Answered], judge: Judge
) -> list[float | SkippedQuestion]:
    """Of every answer; a judge is asked about several at a time.

    Raises:
        EndpointUnavailableError: the judge replies to nobody.
    """

    def credit(one: Answered) -> float | SkippedQuestion:
        try:
            return benchmark.credit(one, protocol, judge)
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


def write_files(
    benchmark: Benchmark, split: str, score: Score, answered: Sequence[Answered], folder: Path
) -> list[Path]:
    """Write a score, and the files of answers that published scripts leave or a server takes.

    Returns:
        The files of answers.

    Raises:
        MGMError: they cannot be written; on a full disk none is cut.
    """
    with staged_files(folder) as part:
        save_score(score, part / "score.json")
    with staged_files(folder) as part:
        try:
            written = benchmark.submission(answered, part, split)
        except DATA_ERRORS as error:
            if isinstance(error, MGMError):
                raise
            reason = one_line(f"{type(error).__name__}: {error}")[:300]
            raise MGMError(
                f"{folder}: no files of answers, since one cannot be in them ({reason})"
            ) from error
        return [folder / path.relative_to(part) for path in written]


def load_score(path: Path) -> Score:
    """Read what `save_score` wrote.

    Raises:
        MGMError: it did not write that.
    """
    content = read_json(path)
    try:
        parts = {
            name: (float(value), int(count)) for name, (value, count) in content["parts"].items()
        }
        skipped = tuple(SkippedQuestion(**one) for one in content.get("skipped", ()))
        content = {name: value for name, value in content.items() if name != "complete"}
        return Score(**content | {"parts": parts, "skipped": skipped})
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise MGMError(f"{path}: is no score of ours ({error})") from error

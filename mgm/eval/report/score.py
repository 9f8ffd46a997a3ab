"""A score with all that it takes to compare it: protocol, judge, interval, and what is missing."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any

from mgm.atomic import atomic_file
from mgm.errors import MGMError, one_line
from mgm.eval.harness.question import DATA_ERRORS, Credit, Question, Response, SkippedQuestion
from mgm.eval.tasks.benchmark import Benchmark
from mgm.eval.tasks.files import load_json, staged_files

logger = logging.getLogger("mgm.eval")
_TEXTS = ("benchmark", "title", "metric", "protocol", "judge")
SCORE_FORMAT = 2  # of score.json; 1 had neither `inputs` nor `intervals`


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
        question_hashes: of every question with its right answer and images, by its id; empty where
            the file was written by an older version (see `question_hash`).
        counts: of answers that were "cut" by the token limit, "empty", or "unparsed".
        notes: what there is to know about single credits (see `Credit`), by the questions' ids.
        fractions: numerator and denominator of credits that are a `Credit`, by the questions' ids.
        highest: the largest value that there can be; None: no bound.
        part_highest: the same of parts, where it is another.
        headline: parts that stand for the score in tables.
        run: how it came about (see `run_info`).
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
    question_hashes: dict[str, str] = field(default_factory=dict, repr=False)
    counts: dict[str, int] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict, repr=False)
    fractions: dict[str, tuple[float, float]] = field(default_factory=dict, repr=False)
    highest: float | None = 100.0
    part_highest: dict[str, float | None] = field(default_factory=dict)
    headline: tuple[str, ...] = ()
    run: dict[str, Any] = field(default_factory=dict, repr=False)
    format: int = SCORE_FORMAT

    @property
    def complete(self) -> bool:
        """Whether all questions of the benchmark were scored."""
        return self.expected is None or self.questions == self.expected

    @property
    def coverage(self) -> str:
        """How many of the questions were scored, in words; empty: all."""
        if self.complete:
            return ""
        return f"partial, {self.questions:,} of {self.expected or 0:,} questions"

    @property
    def scorer(self) -> str:
        """Protocol and judge in words."""
        return self.protocol + (f", judged by {self.judge}" if self.judge else "")


def parsed_answer(benchmark: Benchmark, response: Response, protocol: str) -> str | None:
    """What the scorer reads in an answer (see `Benchmark.parse`); empty where it cannot be read."""
    try:
        return benchmark.parse(response, protocol)
    except DATA_ERRORS:  # a record or an answer that its parser did not expect
        return ""


def question_hash(question: Question) -> str:
    """16 hexadecimal digits of a SHA-256 of a question: text, right answer, and what it is about.

    Of images that are files the sizes count, not the content: there may be many.
    """
    parts = [
        *(question.id, question.text, question.target, question.category, question.group),
        [_image_mark(image) for image in question.images],
    ]
    text = json.dumps(parts, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]


def _image_mark(image: object) -> int | str:
    if isinstance(image, bytes):
        return hashlib.sha256(image).hexdigest()
    try:
        return Path(str(image)).stat().st_size
    except OSError:
        return "missing"


def combine_inputs(benchmark: Benchmark, question: Question) -> dict[str, Any]:
    """What `combine` reads of a question, so that `restore_question` can make one like it."""
    target = question.target if isinstance(question.target, str | int | float) else None
    names = [name for name in benchmark.combine_metadata if name in question.metadata]
    metadata = {name: question.metadata[name] for name in names}
    return {"category": question.category, "answer": target, "facts": metadata}


def restore_question(score: Score, name: str) -> Question:
    """A question of a saved score, with what `Benchmark.combine` reads of it.

    Raises:
        MGMError: the score was saved without that.
    """
    inputs = score.inputs.get(name)
    if inputs is None:
        raise MGMError(
            f"{score.benchmark}, {score.protocol}: score.json was written by an older version, "
            "without what this score is combined of; run again with --score-only"
        )
    return Question(
        *(name, ""),
        target=inputs["answer"],
        group=score.groups[name],
        category=inputs["category"],
        metadata=inputs["facts"],
    )


def restore_questions(benchmark: Benchmark, score: Score, names: Sequence[str]) -> list[Question]:
    """Questions of a saved score, with what `Benchmark.combine` reads of them.

    Args:
        benchmark: that combines credits.
        score: of it.
        names: ids of questions.

    Raises:
        MGMError: the score was saved without what is read of questions.
    """
    if benchmark.is_mean():  # of credits alone
        return [Question(name, "", group=score.groups[name]) for name in names]
    return [restore_question(score, name) for name in names]


def credit_of(score: Score, name: str) -> float:
    """A credit of a saved score, with its numerator and denominator where it has them."""
    credit, fraction = score.credits[name], score.fractions.get(name)
    return credit if fraction is None else Credit(credit, *fraction)


def save_score(score: Score, path: Path) -> None:
    """Write a score for machines.

    Raises:
        MGMError: it cannot be written; nothing half-done stays.
    """
    content = asdict(score) | {"complete": score.complete}
    with atomic_file(path) as part:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False)
        part.write_text(text, encoding="utf-8")


def write_score_files(
    benchmark: Benchmark, split: str, score: Score, responses: Sequence[Response], folder: Path
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
            written = benchmark.submission(responses, part, split)
        except DATA_ERRORS as error:
            if isinstance(error, MGMError):
                raise
            reason = one_line(f"{type(error).__name__}: {error}")[:300]
            raise MGMError(
                f"{folder}: no files of answers, since one cannot be in them ({reason})"
            ) from error
        return [folder / path.relative_to(part) for path in written]


def warn_if_replaced(path: Path, score: Score) -> None:
    """Warn where a partial score is about to replace a complete one.

    Args:
        path: of the score that is there, if there is one.
        score: that comes in its place.
    """
    try:
        complete = path.is_file() and load_score(path).complete
    except MGMError:
        return
    if complete and not score.complete:
        logger.warning("%s: was complete; this score replaces it (%s)", path, score.coverage)


def score_files(folder: Path) -> list[Path]:
    """Scores in the output of evaluations, in order: BENCHMARK/SPLIT/PROTOCOL/score.json."""
    return sorted(folder.glob("*/*/*/score.json"))


def load_score(path: Path) -> Score:
    """Read what `save_score` wrote.

    Raises:
        MGMError: it did not write that.
    """
    content = load_json(path)
    try:
        json.dumps(content, allow_nan=False)  # NaN and Infinity are no JSON
        _check_types(content)
        names = {one.name for one in fields(Score)}
        known: dict[str, Any] = {"format": 1}
        known |= {name: value for name, value in content.items() if name in names}
        known["parts"] = {
            name: (float(value), int(count)) for name, (value, count) in content["parts"].items()
        }
        for name in ("intervals", "fractions"):
            pairs = content.get(name, {}).items()
            known[name] = {key: (float(first), float(second)) for key, (first, second) in pairs}
        known["credits"] = {name: float(one) for name, one in content["credits"].items()}
        known["groups"] = {name: str(content["groups"][name]) for name in content["credits"]}
        known["skipped"] = tuple(SkippedQuestion(**one) for one in content.get("skipped", ()))
        known["headline"] = tuple(content.get("headline", ()))
        return Score(**known)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise MGMError(f"{path}: is no score of ours ({error})") from error


def _check_types(content: Mapping[str, Any]) -> None:
    """Raise a TypeError where a field that the report reads has another type."""
    run, number, count = content.get("run", {}), (int, float, NoneType), (int, NoneType)
    own: dict[str, Any] = {name: (content[name], str) for name in _TEXTS}
    own |= {name: (content[name], number) for name in ("value", "low", "high")}
    own |= {"questions": (content["questions"], int), "expected": (content["expected"], count)}
    own |= {"run": (run, dict), "run.date": (run.get("date", ""), str)}
    own |= {"run.model": (run.get("model", {}), dict), "counts": (content.get("counts", {}), dict)}
    own |= {f"counts.{name}": (one, int) for name, one in content.get("counts", {}).items()}
    own |= {f"notes.{name}": (one, str) for name, one in content.get("notes", {}).items()}
    for name, (value, kind) in own.items():
        if not isinstance(value, kind) or isinstance(value, bool):
            raise TypeError(f"{name} is of type {type(value).__name__}")

"""Scores, and score.json: metric, interval, credits of each question, and provenance."""

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
SCORE_FORMAT = 2  # format of score.json; 1 has neither `inputs` nor `intervals`


@dataclass(frozen=True)
class Score:
    """The score of a model on a benchmark.

    Attributes:
        benchmark: name and split, such as "textvqa:val".
        title: title of the benchmark in reports.
        metric: name of `value`.
        protocol: protocol of prompts and scoring rules.
        judge: judge of free-form responses; empty: not needed.
        value: the score; None: targets are not public.
        low: lower end of the 95 % interval; None: too few images, or no value.
        high: upper end of the 95 % interval.
        questions: number of scored questions.
        expected: number of questions of the benchmark; None: unknown.
        parts: score and number of questions of each part.
        credits: credits by question id.
        groups: clusters of questions, by question id.
        skipped: questions without response or credit.
        intervals: 95 % intervals of parts; small ones have none.
        inputs: further fields of questions that `Benchmark.combine` reads, by question id; empty if
            the score is the mean of credits.
        question_hashes: by question id (see `question_hash`); empty in files of older versions.
        counts: of responses that were "cut" at the token limit, "empty", "unparsed" or "sampled".
        notes: notes of credits (see `Credit`), by question id.
        fractions: numerator and denominator of credits that are a `Credit`, by question id.
        highest: the maximum of the metric; None: unbounded.
        part_highest: the maximum of parts, where it differs.
        headline: parts to show as the score in tables.
        run: provenance (see `run_info`).
        format: format of the file; incremented when the meaning of a field changes.
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
        """The number of scored questions, for tables; empty: all."""
        if self.complete:
            return ""
        return f"partial, {self.questions:,} of {self.expected or 0:,} questions"

    @property
    def scorer(self) -> str:
        """Protocol and judge, for tables."""
        return self.protocol + (f", judged by {self.judge}" if self.judge else "")


def parsed_answer(benchmark: Benchmark, response: Response, protocol: str) -> str | None:
    """The extracted answer (see `Benchmark.parse`); empty if parsing fails."""
    try:
        return benchmark.parse(response, protocol)
    except DATA_ERRORS:  # a record or response of an unexpected form
        return ""


def question_hash(question: Question) -> str:
    """16 hexadecimal digits of the SHA-256 of a question: prompt, target, category and images.

    Of image files only the sizes are included, since there may be many.
    """
    parts = [
        *(question.id, question.text, question.target, question.category, question.group),
        [image_fingerprint(image) for image in question.images],
    ]
    text = json.dumps(parts, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]


def image_fingerprint(image: object) -> int | str:
    """The SHA-256 of an encoded image, or the size of a file."""
    if isinstance(image, bytes):
        return hashlib.sha256(image).hexdigest()
    try:
        return Path(str(image)).stat().st_size
    except OSError:
        return "missing"


def combine_inputs(benchmark: Benchmark, question: Question) -> dict[str, Any]:
    """The fields of a question that `Benchmark.combine` reads, for `restore_question`."""
    target = question.target if isinstance(question.target, str | int | float) else None
    names = [name for name in benchmark.combine_metadata if name in question.metadata]
    metadata = {name: question.metadata[name] for name in names}
    return {"category": question.category, "answer": target, "metadata": metadata}


def restore_question(score: Score, name: str) -> Question:
    """Restore a question of a saved score, with the fields that `Benchmark.combine` reads.

    Raises:
        MGMError: the score was saved without these fields.
    """
    inputs = score.inputs.get(name)
    if inputs is None:
        raise MGMError(
            f"{score.benchmark}, {score.protocol}: score.json was written by an older version, "
            "without the inputs of its metric; run again with --score-only"
        )
    return Question(
        *(name, ""),
        target=inputs["answer"],
        group=score.groups[name],
        category=inputs["category"],
        # Earlier versions wrote the second key.
        metadata=inputs["metadata" if "metadata" in inputs else "facts"],
    )


def restore_questions(benchmark: Benchmark, score: Score, names: Sequence[str]) -> list[Question]:
    """Restore questions of a saved score, with the fields that `Benchmark.combine` reads.

    Args:
        benchmark: benchmark of the score.
        score: score that was saved.
        names: ids of questions.

    Raises:
        MGMError: the score was saved without these fields.
    """
    if benchmark.is_mean():  # needs credits only
        return [Question(name, "", group=score.groups[name]) for name in names]
    return [restore_question(score, name) for name in names]


def credit_of(score: Score, name: str) -> float:
    """A credit of a saved score, as `Credit` if it has a numerator and denominator."""
    credit, fraction = score.credits[name], score.fractions.get(name)
    return credit if fraction is None else Credit(credit, *fraction)


def save_score(score: Score, path: Path) -> None:
    """Write score.json atomically.

    Raises:
        MGMError: it cannot be written.
    """
    content = asdict(score) | {"complete": score.complete}
    with atomic_file(path) as part:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False)
        part.write_text(text, encoding="utf-8")


def write_score_files(
    benchmark: Benchmark, split: str, score: Score, responses: Sequence[Response], folder: Path
) -> list[Path]:
    """Write score.json, and the answers and submission files of `Benchmark.submission`.

    Returns:
        The answers and submission files.

    Raises:
        MGMError: a file cannot be written; on a full disk none is truncated.
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
            raise MGMError(f"{folder}: answers files were not written ({reason})") from error
        return [folder / path.relative_to(part) for path in written]


def warn_if_replaced(path: Path, score: Score) -> None:
    """Warn if a partial score is about to replace a complete one.

    Args:
        path: path of the existing score, which may be missing.
        score: score to write.
    """
    try:
        complete = path.is_file() and load_score(path).complete
    except MGMError:
        return
    if complete and not score.complete:
        logger.warning(
            "%s: replacing a complete score with a partial one (%s)", path, score.coverage
        )


def score_files(folder: Path) -> list[Path]:
    """The files BENCHMARK/SPLIT/PROTOCOL/score.json in an output folder, sorted."""
    return sorted(folder.glob("*/*/*/score.json"))


def load_score(path: Path) -> Score:
    """Load score.json, of older versions too.

    Raises:
        MGMError: not a score.
    """
    content = load_json(path)
    try:
        json.dumps(content, allow_nan=False)  # NaN and Infinity are not valid JSON
        _check_types(content)
        names = {one.name for one in fields(Score)}
        fields_of_score: dict[str, Any] = {"format": 1}
        fields_of_score |= {name: value for name, value in content.items() if name in names}
        fields_of_score["parts"] = {
            name: (float(value), int(count)) for name, (value, count) in content["parts"].items()
        }
        for name in ("intervals", "fractions"):
            pairs = content.get(name, {}).items()
            fields_of_score[name] = {
                key: (float(first), float(second)) for key, (first, second) in pairs
            }
        fields_of_score["credits"] = {name: float(one) for name, one in content["credits"].items()}
        fields_of_score["groups"] = {
            name: str(content["groups"][name]) for name in content["credits"]
        }
        fields_of_score["skipped"] = tuple(
            SkippedQuestion(**one) for one in content.get("skipped", ())
        )
        fields_of_score["headline"] = tuple(content.get("headline", ()))
        return Score(**fields_of_score)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise MGMError(f"{path}: not a score.json of mgm ({error})") from error


def _check_types(content: Mapping[str, Any]) -> None:
    """Raise a TypeError if a field that the report reads has a wrong type."""
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

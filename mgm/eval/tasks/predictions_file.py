"""Matches the predictions of another program to the questions of a benchmark (--predictions)."""

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mgm.errors import MGMError
from mgm.eval.harness.question import Question, Response
from mgm.eval.tasks.benchmark import LMMS_EVAL, VLMEVALKIT, Benchmark
from mgm.eval.tasks.prediction_records import Prediction, is_same_question, read_predictions
from mgm.eval.tasks.prompts import alphanumeric, strip_instructions

logger = logging.getLogger("mgm.eval")
MAX_LISTED_IDS = 3  # ids in a message


@dataclass
class PredictionMatch:
    """The result of matching a predictions file with the questions of a benchmark.

    All but `responses` are ids or messages for the log.

    Attributes:
        responses: matched predictions, in the benchmark's order.
        unknown: predictions without a question of their id; ignored.
        duplicate: questions with several equal predictions; counted once.
        conflicting: questions with different predictions; ignored.
        missing: questions without a prediction.
        ambiguous: ids that several questions share, where prompt and order do not help; ignored.
        mismatched: predictions whose file has another question text for their id; ignored.
        unreadable: records without an id or a response; ignored.
        empty: questions with a null or empty prediction; scored.
    """

    responses: list[Response] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    duplicate: list[str] = field(default_factory=list)
    conflicting: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    ambiguous: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)

    def log_problems(self, path: Path) -> None:
        """Log a warning for each kind of problem."""
        for ids, problem in (
            (self.unreadable, "unreadable records, ignored"),
            (self.unknown, "predictions for unknown question ids, ignored"),
            (self.mismatched, "predictions for another question than that of their id, ignored"),
            (self.ambiguous, "predictions with ids of several questions, ignored"),
            (self.duplicate, "questions with equal duplicate predictions, counted once"),
            (self.conflicting, "questions with conflicting predictions, ignored"),
            (self.empty, "questions with an empty prediction, scored"),
            (self.missing, "questions without a prediction; the score is partial"),
        ):
            if ids:
                more = ", …" if len(ids) > MAX_LISTED_IDS else ""
                shown = ", ".join(map(repr, ids[:MAX_LISTED_IDS]))
                logger.warning("%s: %d %s (%s%s)", path, len(ids), problem, shown, more)


def match_predictions(
    path: Path, benchmark: Benchmark, questions: Sequence[Question], protocol: str = ""
) -> PredictionMatch:
    """Match the predictions in a file with the questions of a benchmark.

    A prediction of VLMEvalKit or lmms-eval belongs to the row of its index if the questions were
    loaded from that harness's data, else to the question of its id. Question text in the file has
    to match. If several questions share an id, as in published files, the prompt in the file
    decides, else the order, if every one of them has a prediction.

    Args:
        path: JSONL, JSON, spreadsheet, TSV or CSV.
        benchmark: benchmark of the predictions.
        questions: all questions of the benchmark.
        protocol: protocol with which the questions were loaded.

    Raises:
        MGMError: the file is missing or unreadable, matches no question, or mostly matches other
            questions.
    """
    predictions, unreadable = read_predictions(path)
    match = PredictionMatch(unreadable=unreadable)
    indices_by_id = _indices_by_id(benchmark, questions)
    texts_by_index: dict[int, list[str]] = defaultdict(list)
    by_candidates: dict[tuple[int, ...], list[Prediction]] = defaultdict(list)
    mismatched: list[tuple[Prediction, Question]] = []
    for prediction in predictions:
        candidates = _candidates(prediction, indices_by_id, questions)
        consistent = [n for n in candidates if is_same_question(prediction, questions[n])]
        with_prompt = [n for n in consistent if _is_prompt(prediction.prompt, questions[n])]
        if not candidates:
            match.unknown.append(prediction.id)
        elif not consistent:
            match.mismatched.append(prediction.id)
            mismatched.append((prediction, questions[candidates[0]]))
        else:
            by_candidates[tuple(with_prompt or consistent)].append(prediction)
    for candidates, same_question in by_candidates.items():
        if len(candidates) > 1 and len(same_question) % len(candidates):
            match.ambiguous += [prediction.id for prediction in same_question]
            continue
        for number, prediction in enumerate(same_question):  # the file may repeat them in order
            texts_by_index[candidates[number % len(candidates)]].append(prediction.text)
    harness = Counter(prediction.harness for prediction in predictions).most_common(1)
    advice = _advice(benchmark, harness[0][0] if harness else "", protocol)
    _raise_if_useless(
        path, benchmark, match, len(texts_by_index), mismatched, list(indices_by_id), advice
    )
    _raise_if_echoes(path, texts_by_index, questions)
    for index, question in enumerate(questions):
        texts = texts_by_index.get(index, [])
        if len(set(texts)) == 1:
            match.responses.append(Response(question, texts[0]))
            match.duplicate += [question.id] * (len(texts) > 1)
            match.empty += [question.id] * (not texts[0])
        elif texts:
            match.conflicting.append(question.id)
        else:
            match.missing.append(question.id)
    return match


def _indices_by_id(benchmark: Benchmark, questions: Sequence[Question]) -> dict[str, list[int]]:
    """Indices of questions by all ids that predictions files use."""
    indices_by_id: dict[str, list[int]] = defaultdict(list)
    for index, question in enumerate(questions):
        for prediction_id in benchmark.prediction_ids(question):
            indices_by_id[prediction_id].append(index)
        if question.source_index is not None:
            indices_by_id[question.source_index].append(index)
    return indices_by_id


def _candidates(
    prediction: Prediction, indices_by_id: Mapping[str, list[int]], questions: Sequence[Question]
) -> list[int]:
    """Indices of the questions of a prediction, by its most reliable id that any question has."""
    for prediction_id in prediction.ids:
        if prediction_id in indices_by_id:
            return indices_by_id[prediction_id]
    # The row index only if the text can be verified: published files may have the same order.
    doc_index = prediction.doc_index
    if doc_index is not None and prediction.question and doc_index < len(questions):
        return [doc_index]
    return []


def _is_prompt(prompt: Any, question: Question) -> bool:
    return prompt is not None and prompt in (question.metadata.get("prompt"), question.text)


def _raise_if_useless(
    path: Path,
    benchmark: Benchmark,
    match: PredictionMatch,
    usable: int,
    mismatched: Sequence[tuple[Prediction, Question]],
    known_ids: Sequence[str],
    advice: str,
) -> None:
    """Raise an MGMError if predictions match other questions, or none."""
    if len(mismatched) > usable:
        prediction, question = mismatched[0]
        raise MGMError(
            f"{path}: {len(mismatched)} predictions do not match the questions of {benchmark.name} "
            f"with their ids: {prediction.id} is {prediction.question or prediction.prompt!r:.80} "
            f"there and {question.text!r:.80} here{advice}"
        )
    if usable:
        return
    if match.unreadable and not match.unknown + match.ambiguous:
        raise MGMError(f"{path}, {match.unreadable[0]}")
    if match.ambiguous:
        raise MGMError(
            f"{path}: {match.ambiguous[0]!r} is the id of several questions of {benchmark.name}, "
            f"and the file does not distinguish them{advice}"
        )
    raise MGMError(
        f"{path}: none of its {len(match.unknown)} predictions matches a question of "
        f"{benchmark.name} (its ids are like {_shown(match.unknown)}, the benchmark's like "
        f"{_shown(known_ids)}){advice}"
    )


def _raise_if_echoes(
    path: Path, texts_by_index: Mapping[int, Sequence[str]], questions: Sequence[Question]
) -> None:
    """Raise an MGMError if most predictions equal their question, as in a question file."""
    echoes = sum(
        any(_equal_letters(text, questions[index].text) for text in texts)
        for index, texts in texts_by_index.items()
    )
    if 2 * echoes > len(texts_by_index):
        raise MGMError(
            f"{path}: {echoes} of {len(texts_by_index)} predictions are the questions themselves; "
            "give the file with the model's responses"
        )


def _equal_letters(text: str, other: str) -> bool:
    letters = alphanumeric(strip_instructions(text))
    return bool(letters) and letters == alphanumeric(strip_instructions(other))


def _shown(ids: Sequence[str]) -> str:
    return ", ".join(map(repr, ids[:MAX_LISTED_IDS])) or "none"


def _advice(benchmark: Benchmark, harness: str, protocol: str) -> str:
    """Advice to use the protocol of the harness that wrote the file."""
    if harness == protocol:
        return ""
    if harness in (LMMS_EVAL, VLMEVALKIT) and harness in benchmark.protocols:
        return f"; its indices belong to the data of {harness}: give --protocol {harness}"
    return ""

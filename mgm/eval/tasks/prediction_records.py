"""Parses predictions files of VLMEvalKit, lmms-eval and the published scripts."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError
from zipfile import BadZipFile

from mgm.errors import MGMError
from mgm.eval.harness.question import Question
from mgm.eval.tasks.benchmark import LMMS_EVAL, VLMEVALKIT
from mgm.eval.tasks.files import import_openpyxl, load_json, read_jsonl, read_table
from mgm.eval.tasks.prompts import (
    alphanumeric,
    is_same_prompt,
    one_contains_other,
    strip_instructions,
)

OBJECT_KEY = "<key>"  # field for the key of a record in a JSON object
INDEX_COLUMN = "index"  # column of the row index in VLMEvalKit's tables
ID_COLUMNS = (
    "question_id",
    "questionId",
    "id",
    "pid",
    INDEX_COLUMN,
)  # fields of the question's id
# The model's response, the most reliable first: in question files, `text` is the question.
TEXT_COLUMNS = ("response", "prediction", "text")
ANSWER_COLUMN = "answer"  # the response in result files, the target in data sets
# Columns of data sets: with one of them and a question, `answer` is the target.
DATA_COLUMNS = frozenset((
    *("A", "choices", "options", "option_a", "choice_a", "multi-choice options"),
    *("image", "images", "image_path", "imageId", "imagename", "img_path"),
    *("category", "l2-category", "l2_category", "capability", "types", "question_type"),
))  # fmt: skip
_INTEGRAL_FLOAT = re.compile(r"(-?\d+)\.0+")  # an integer that a table stores as float


@dataclass(frozen=True)
class Prediction:
    """A prediction in a file, with the ids and texts that identify its question.

    Attributes:
        ids: candidate ids of the question, the most reliable first.
        text: text of the response; empty for null.
        harness: harness that wrote the file, as the name of its protocol; empty: unknown.
        prompt: prompt in a file of the published scripts.
        question: text of the question in the file; None: not in the file.
        doc_index: row of the question in lmms-eval's data, from 0.
    """

    ids: tuple[str, ...]
    text: str
    harness: str = ""
    prompt: Any = None
    question: str | None = None
    doc_index: int | None = None

    @property
    def id(self) -> str:
        """The most reliable id, for messages."""
        return self.ids[0]


def read_predictions(path: Path) -> tuple[list[Prediction], list[str]]:
    """Read a predictions file; returns predictions, and messages about damaged records.

    Raises:
        MGMError: the file is missing, or not a predictions file.
    """
    predictions, unreadable = [], []
    for number, record in enumerate(_read_records(path, unreadable), start=1):
        try:
            predictions.append(_prediction(record))
        except MGMError as error:
            unreadable.append(f"record {number}: {error}")
    return predictions, unreadable


def _prediction(record: Mapping[str, Any]) -> Prediction:
    """Parse a record; raises an MGMError without an id or a response."""
    if "doc_id" in record and ("filtered_resps" in record or "resps" in record):
        return _lmms_eval_prediction(record)
    names, text = _question_ids(record), _model_text(record)
    question = record.get("question")
    return Prediction(
        names,
        text,
        VLMEVALKIT if INDEX_COLUMN in record and "prediction" in record else "",
        prompt=record.get("prompt"),
        question=question if isinstance(question, str) else None,
    )


def _question_ids(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Candidate ids of the question, the most reliable first.

    The column `index` is the row of VLMEvalKit's table, whatever ids the questions have. The key
    of a JSON object is first taken as an id, and as such an index if no question has the id.
    """
    id_column = next((name for name in ID_COLUMNS if name in record), None)
    ids = []
    if id_column is not None or OBJECT_KEY not in record:
        name = _as_id(_first_field(record, ID_COLUMNS))
        ids += [f"{INDEX_COLUMN} {name}", name] if id_column == INDEX_COLUMN else [name]
    if OBJECT_KEY in record:
        key = _as_id(record[OBJECT_KEY])
        ids += [key, f"{INDEX_COLUMN} {key}"]
    return tuple(dict.fromkeys(ids))


def _model_text(record: Mapping[str, Any]) -> str:
    """The model's response in a record.

    Raises:
        MGMError: there is none, or only the target of a data set.
    """
    if any(name in record for name in TEXT_COLUMNS):
        return _text(_first_field(record, TEXT_COLUMNS))
    if "question" in record and ANSWER_COLUMN in record and not DATA_COLUMNS.isdisjoint(record):
        raise MGMError(
            "contains targets, not predictions: it is a row of the data set; give the file with "
            f"the model's responses, in a column {TEXT_COLUMNS[1]!r}"
        )
    return _text(_first_field(record, (*TEXT_COLUMNS, ANSWER_COLUMN)))


def _lmms_eval_prediction(record: Mapping[str, Any]) -> Prediction:
    """Parse a line of lmms-eval's `*_samples_*.jsonl`.

    Source: `save_results_samples` of lmms-eval's evaluation_tracker.py. Older versions write
    responses as lists of one, and the row itself as `doc`.
    """
    text = _response(record.get("filtered_resps", record.get("resps")))
    document = record.get("doc")
    # The metrics of many tasks are objects with the id of the question.
    records = [one for one in (document, *record.values()) if isinstance(one, dict)]
    ids = [_as_id(one[name]) for one in records for name in ID_COLUMNS if _is_id(one.get(name))]
    question = document.get("question") if isinstance(document, dict) else None
    question = question or record.get("input")
    doc_id = record["doc_id"]
    return Prediction(
        tuple(dict.fromkeys((f"doc_id {_as_id(doc_id)}", *ids))),
        _text(text),
        LMMS_EVAL,
        question=question if isinstance(question, str) else None,
        doc_index=doc_id if isinstance(doc_id, int) else None,
    )


def _response(value: Any) -> Any:
    """The first response in nested lists.

    Raises:
        MGMError: log-likelihoods of choices, not text.
    """
    while isinstance(value, list):
        if len(value) == 2 and str(value[1]) in ("True", "False") and _is_number(value[0]):
            raise MGMError("contains log-likelihoods, not text; use a task that generates")
        value = value[0] if value else None
    if isinstance(value, float) and not math.isnan(value):
        raise MGMError("contains log-likelihoods, not text; use a task that generates")
    return value


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def is_same_question(prediction: Prediction, question: Question) -> bool:
    """Whether question text and prompt in a file match a question; true without either."""
    problem = question.metadata.get("problem") or question.metadata.get("row") or {}
    other_texts = (question.metadata.get(name) for name in ("prompt", "question"))
    texts = [strip_instructions(question.text), *other_texts]
    known_texts = [text for text in (*texts, problem.get("question")) if isinstance(text, str)]
    if alphanumeric(prediction.question or ""):
        return any(one_contains_other(text, prediction.question or "") for text in known_texts)
    if isinstance(prediction.prompt, str) and alphanumeric(prediction.prompt):
        return any(is_same_prompt(text, prediction.prompt) for text in known_texts)
    return True


def _is_id(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _as_id(value: Any) -> str:
    name = str(value).strip()
    whole = _INTEGRAL_FLOAT.fullmatch(name)
    return whole[1] if whole else name


def _text(value: Any) -> str:
    """The text of a cell; raises an MGMError for other types."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, str | int | float):
        raise MGMError(f"the response is of type {type(value).__name__}, not text")
    return str(value).strip()


def _first_field(record: Mapping[str, Any], names: Sequence[str]) -> Any:
    for name in names:
        if name in record:
            return record[name]
    own = [name for name in record if name != OBJECT_KEY]
    raise MGMError(f"has no column of {', '.join(names)}, only {', '.join(own) or 'none'}")


def _read_records(path: Path, unreadable: list[str]) -> Iterator[Mapping[str, Any]]:
    kind = path.suffix.lower()

    def skip(where: str, why: str) -> None:
        unreadable.append(f"{where}: {why}")

    if kind == ".jsonl":
        yield from read_jsonl(path, skip)
    elif kind in (".tsv", ".csv"):
        yield from read_table(path, "\t" if kind == ".tsv" else ",", skip)
    elif kind == ".xlsx":
        yield from _spreadsheet_rows(path)
    elif kind == ".json":
        content = load_json(path)
        if isinstance(content, dict):
            content = _records_in_object(path, content)
        if not isinstance(content, list) or not any(isinstance(one, dict) for one in content):
            raise MGMError(f"{path}: contains no predictions")
        yield from (one if isinstance(one, dict) else {} for one in content)
    elif kind == ".pkl":
        raise MGMError(
            f"{path}: reading a pickle can run any code; convert it to JSON "
            "where it comes from: pandas.read_pickle(FILE).to_json('answers.json', "
            "orient='records') of a table, json.dump(pandas.read_pickle(FILE), "
            "open('answers.json', 'w')) of VLMEvalKit's *_PREV.pkl"
        )
    else:
        raise MGMError(f"{path}: unknown suffix {kind!r}; give .jsonl, .json, .tsv, .csv or .xlsx")


def _records_in_object(path: Path, content: Mapping[str, Any]) -> list[Any]:
    """The records in a JSON object: predictions by question id, or old samples of lmms-eval.

    Raises:
        MGMError: it is a results file of lmms-eval.
    """
    if isinstance(content.get("logs"), list):
        return content["logs"]
    if isinstance(content.get("results"), dict) and "configs" in content:
        raise MGMError(
            f"{path}: contains results of lmms-eval, not predictions; give the samples file, "
            "*_samples_*.jsonl, which --log_samples writes beside it"
        )
    return [
        {OBJECT_KEY: name} | (one if isinstance(one, dict) else {"text": one})
        for name, one in content.items()
    ]


def _spreadsheet_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """Read the rows of a spreadsheet; an empty cell is an empty response."""
    openpyxl = import_openpyxl(path)
    try:
        sheet = openpyxl.load_workbook(path, read_only=True).worksheets[0]
        rows = list(sheet.iter_rows(values_only=True))
    except (
        OSError,
        LookupError,
        ValueError,
        TypeError,
        BadZipFile,
        ParseError,
        openpyxl.utils.exceptions.InvalidFileException,
    ) as error:
        raise MGMError(f"{path}: cannot be read as a spreadsheet ({error})") from error
    columns = [str(name) for name in rows[0]] if rows else []
    for row in rows[1:]:
        if any(cell is not None for cell in row):  # spreadsheets may end with empty rows
            yield dict(zip(columns, row, strict=False))

"""Records of files of answers, in the forms of published scripts, VLMEvalKit and lmms-eval."""

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
from mgm.eval.tasks.files import import_openpyxl, read_json, read_lines, read_table
from mgm.eval.tasks.prompts import bare_question, is_same_prompt, letters_of, one_contains_other

KEY = "<key>"  # under which a record stands in a JSON object
INDEX = "index"  # column of a question's number in VLMEvalKit's tables
NAMES = ("question_id", "questionId", "id", "pid", INDEX)  # of a question's name in a record
# Of a model's answer, the surest first: questions of published scripts are called `text`, too.
TEXTS = ("response", "prediction", "text")
ANSWER = "answer"  # of a model's answer in result files, of the right one in data sets
# Columns of data sets: beside a question they show that `answer` is the right one.
DATA_COLUMNS = frozenset((
    *("A", "choices", "options", "option_a", "choice_a", "multi-choice options"),
    *("image", "images", "image_path", "imageId", "imagename", "img_path"),
    *("category", "l2-category", "l2_category", "capability", "types", "question_type"),
))  # fmt: skip
_WHOLE = re.compile(r"(-?\d+)\.0+")  # a number that a table has made of an integer


@dataclass(frozen=True)
class Prediction:
    """An answer, and what its file tells about its question.

    Attributes:
        names: of the question, the surest first.
        text: the answer; empty where there is null.
        harness: that wrote it, a protocol's name; empty: unknown.
        prompt: that was asked, of published files.
        question: what the file has of the question's text; None: nothing.
        row: of the question in lmms-eval's data, from 0.
    """

    names: tuple[str, ...]
    text: str
    harness: str = ""
    prompt: Any = None
    question: str | None = None
    row: int | None = None

    @property
    def name(self) -> str:
        """For people."""
        return self.names[0]


def read_predictions(path: Path) -> tuple[list[Prediction], list[str]]:
    """The records of a file, and what is wrong with those that cannot be read.

    Raises:
        MGMError: the file is missing, or none of answers.
    """
    found, unreadable = [], []
    for number, record in enumerate(_rows(path, unreadable), start=1):
        try:
            found.append(_prediction(record))
        except MGMError as error:
            unreadable.append(f"record {number}: {error}")
    return found, unreadable


def _prediction(record: Mapping[str, Any]) -> Prediction:
    """Raises an MGMError where there is no name or no text."""
    if "doc_id" in record and ("filtered_resps" in record or "resps" in record):
        return _of_lmms_eval(record)
    names, text = _names(record), _model_text(record)
    question = record.get("question")
    return Prediction(
        names,
        text,
        VLMEVALKIT if INDEX in record and "prediction" in record else "",
        prompt=record.get("prompt"),
        question=question if isinstance(question, str) else None,
    )


def _names(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of a question, the surest first.

    A number in the column `index` counts the rows of VLMEvalKit's table, whatever ids they have;
    the key of a JSON object is an id first, and such a number where no question has that id.
    """
    own = next((name for name in NAMES if name in record), None)
    names = []
    if own is not None or KEY not in record:
        name = _name(_first(record, NAMES))
        names += [f"{INDEX} {name}", name] if own == INDEX else [name]
    if KEY in record:
        key = _name(record[KEY])
        names += [key, f"{INDEX} {key}"]
    return tuple(dict.fromkeys(names))


def _model_text(record: Mapping[str, Any]) -> str:
    """A model's answer in a record.

    Raises:
        MGMError: there is none, or only the right answer of a data set.
    """
    if any(name in record for name in TEXTS):
        return _text(_first(record, TEXTS))
    if "question" in record and ANSWER in record and not DATA_COLUMNS.isdisjoint(record):
        raise MGMError(
            "holds the right answers, no predictions: it is a row of the data set; give the file "
            f"with the model's answers, in a column {TEXTS[1]!r}"
        )
    return _text(_first(record, (*TEXTS, ANSWER)))


def _of_lmms_eval(record: Mapping[str, Any]) -> Prediction:
    """A line of a file `*_samples_*.jsonl`.

    Source: `save_results_samples` of lmms-eval's evaluation_tracker.py. Answers stand in lists of
    one in older versions, which also have the row itself as `doc`.
    """
    text = _response(record.get("filtered_resps", record.get("resps")))
    document = record.get("doc")
    # Its metrics of many tasks are objects with the id of the question.
    inside = [one for one in (document, *record.values()) if isinstance(one, dict)]
    ids = [_name(one[name]) for one in inside for name in NAMES if _is_name(one.get(name))]
    question = document.get("question") if isinstance(document, dict) else None
    question = question or record.get("input")
    row = record["doc_id"]
    return Prediction(
        tuple(dict.fromkeys((f"doc_id {_name(row)}", *ids))),
        _text(text),
        LMMS_EVAL,
        question=question if isinstance(question, str) else None,
        row=row if isinstance(row, int) else None,
    )


def _response(value: Any) -> Any:
    """The first response in lists of lists.

    Raises:
        MGMError: it is the log-likelihood of a choice and whether it is the likeliest, no text.
    """
    while isinstance(value, list):
        if len(value) == 2 and str(value[1]) in ("True", "False") and _is_number(value[0]):
            raise MGMError("has log-likelihoods, no text; the task has to generate answers")
        value = value[0] if value else None
    if isinstance(value, float) and not math.isnan(value):
        raise MGMError("has log-likelihoods, no text; the task has to generate answers")
    return value


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def same_wording(one: Prediction, question: Question) -> bool:
    """Whether what a file has of a question's text is of this question; so where it has none."""
    problem = question.facts.get("problem") or question.facts.get("row") or {}
    named = (question.facts.get(name) for name in ("prompt", "question"))
    texts = [bare_question(question.text), *named]
    own = [text for text in (*texts, problem.get("question")) if isinstance(text, str)]
    if letters_of(one.question or ""):
        return any(one_contains_other(text, one.question or "") for text in own)
    if isinstance(one.prompt, str) and letters_of(one.prompt):
        return any(is_same_prompt(text, one.prompt) for text in own)
    return True


def _is_name(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _name(value: Any) -> str:
    name = str(value).strip()
    whole = _WHOLE.fullmatch(name)
    return whole[1] if whole else name


def _text(value: Any) -> str:
    """Raises an MGMError where it is no text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, str | int | float):
        raise MGMError(f"the answer is of type {type(value).__name__}, no text")
    return str(value).strip()


def _first(record: Mapping[str, Any], names: Sequence[str]) -> Any:
    for name in names:
        if name in record:
            return record[name]
    own = [name for name in record if name != KEY]
    raise MGMError(f"has none of {', '.join(names)}; it has {', '.join(own) or 'none'}")


def _rows(path: Path, unreadable: list[str]) -> Iterator[Mapping[str, Any]]:
    kind = path.suffix.lower()

    def skip(where: str, why: str) -> None:
        unreadable.append(f"{where}: {why}")

    if kind == ".jsonl":
        yield from read_lines(path, skip)
    elif kind in (".tsv", ".csv"):
        yield from read_table(path, "\t" if kind == ".tsv" else ",", skip)
    elif kind == ".xlsx":
        yield from _sheet(path)
    elif kind == ".json":
        content = read_json(path)
        if isinstance(content, dict):
            content = _listed(path, content)
        if not isinstance(content, list) or not any(isinstance(one, dict) for one in content):
            raise MGMError(f"{path}: holds no records of answers")
        yield from (one if isinstance(one, dict) else {} for one in content)
    elif kind == ".pkl":
        raise MGMError(
            f"{path}: is a pickle, which can run any program when it is read; write it as JSON "
            "where it comes from: pandas.read_pickle(FILE).to_json('answers.json', "
            "orient='records') of a table, json.dump(pandas.read_pickle(FILE), "
            "open('answers.json', 'w')) of VLMEvalKit's *_PREV.pkl"
        )
    else:
        raise MGMError(f"{path}: ends in {kind!r}; give .jsonl, .json, .tsv, .csv or .xlsx")


def _listed(path: Path, content: Mapping[str, Any]) -> list[Any]:
    """The records in a JSON object: answers by their questions' names, or lmms-eval's old samples.

    Raises:
        MGMError: it is lmms-eval's file of results.
    """
    if isinstance(content.get("logs"), list):
        return content["logs"]
    if isinstance(content.get("results"), dict) and "configs" in content:
        raise MGMError(
            f"{path}: holds lmms-eval's results, no answers; give the samples file, "
            "*_samples_*.jsonl, which --log_samples writes beside it"
        )
    return [
        {KEY: name} | (one if isinstance(one, dict) else {"text": one})
        for name, one in content.items()
    ]


def _sheet(path: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a spreadsheet; an empty cell is an empty answer."""
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
        if any(cell is not None for cell in row):  # programs keep empty rows at the end
            yield dict(zip(columns, row, strict=False))

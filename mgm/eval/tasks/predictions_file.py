"""Answers that another program has written: whose they are, and what is wrong with them."""

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from mgm.errors import MGMError
from mgm.eval.harness.question import Answered, Question
from mgm.eval.tasks.benchmark import Benchmark
from mgm.eval.tasks.files import import_openpyxl, read_json, read_lines, read_table

logger = logging.getLogger("mgm.eval")
NAMES = ("question_id", "questionId", "id", "pid", "index")  # of a question's name in a record
TEXTS = ("text", "response", "prediction", "answer")  # of what was said
SHOWN = 3  # names that a message tells


@dataclass
class Found:
    """What a file holds.

    Attributes:
        answered: questions with their answers, in the benchmark's order.
        unknown: names that no question has.
        twice: names of questions that the same was said to several times; it counts once.
        contradictory: names of questions that different things were said to; none counts.
        missing: questions that nothing was said to.
    """

    answered: list[Answered] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    contradictory: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def tell(self, path: Path) -> None:
        """Log what is wrong."""
        for names, what in (
            (self.unknown, "answers to questions that the benchmark does not have; they are left"),
            (self.twice, "questions are answered twice, and the same; it counts once"),
            (self.contradictory, "questions are answered twice, and differently; none counts"),
            (self.missing, "questions have no answer; the score is partial"),
        ):
            if names:
                more = ", …" if len(names) > SHOWN else ""
                shown = ", ".join(map(repr, names[:SHOWN]))
                logger.warning("%s: %d %s (%s%s)", path, len(names), what, shown, more)


def read_answers(path: Path, benchmark: Benchmark, questions: Sequence[Question]) -> Found:
    """Find the answers of questions in a file.

    Where several questions have one name in published files, the prompt tells them apart if it
    stands beside the answer, and else their order.

    Args:
        path: JSON lines, JSON, a spreadsheet, or a table separated by tabs or commas.
        benchmark: that was asked.
        questions: of it.

    Raises:
        MGMError: the file is missing or no such file, or no answer in it is to a question.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for place, question in enumerate(questions):
        for name in benchmark.names_of(question):
            places[name].append(place)
    said: dict[int, list[str]] = defaultdict(list)
    seen: dict[str, int] = defaultdict(int)
    found, total = Found(), 0
    for name, text, prompt in _records(path):
        total += 1
        own = places.get(name, [])
        if not own:
            found.unknown.append(name)
            continue
        asked = [n for n in own if prompt in (questions[n].facts.get("prompt"), questions[n].text)]
        said[asked[0] if len(asked) == 1 else own[seen[name] % len(own)]].append(text)
        seen[name] += 1
    for place, question in enumerate(questions):
        texts = said.get(place, [])
        if len(set(texts)) == 1:
            found.answered.append(Answered(question, texts[0]))
            found.twice += [question.id] * (len(texts) > 1)
        elif texts:
            found.contradictory.append(question.id)
        else:
            found.missing.append(question.id)
    if not said:
        raise MGMError(
            f"{path}: none of its {total} answers is to a question of {benchmark.name} (its names "
            f"are such as {', '.join(map(repr, found.unknown[:SHOWN])) or 'none'}, the "
            f"benchmark's such as {', '.join(map(repr, list(places)[:SHOWN]))})"
        )
    return found


def _records(path: Path) -> Iterator[tuple[str, str, str | None]]:
    """Names, texts, and prompts where there are."""
    for number, record in enumerate(_rows(path), start=1):
        where = f"{path}, record {number}"
        name, text = _first(record, NAMES, where), _first(record, TEXTS, where)
        if not isinstance(text, str | int | float):
            raise MGMError(f"{where}: the answer is of type {type(text).__name__}, no text")
        yield str(name), str(text).strip(), record.get("prompt")


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    kind = path.suffix.lower()
    if kind == ".jsonl":
        yield from read_lines(path)
    elif kind in (".tsv", ".csv"):
        yield from read_table(path, "\t" if kind == ".tsv" else ",")
    elif kind == ".xlsx":
        yield from _sheet(path)
    elif kind == ".json":
        content = read_json(path)
        if isinstance(content, dict):
            content = [
                {"id": name} | (one if isinstance(one, dict) else {"text": one})
                for name, one in content.items()
            ]
        if not isinstance(content, list) or not all(isinstance(one, dict) for one in content):
            raise MGMError(f"{path}: holds no records of answers")
        yield from content
    else:
        raise MGMError(f"{path}: ends in {kind!r}; give .jsonl, .json, .tsv, .csv or .xlsx")


def _sheet(path: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a spreadsheet; an empty cell is an empty answer."""
    openpyxl = import_openpyxl(path)
    try:
        sheet = openpyxl.load_workbook(path, read_only=True).worksheets[0]
    except (
        OSError,
        KeyError,
        ValueError,
        BadZipFile,
        openpyxl.utils.exceptions.InvalidFileException,
    ) as error:
        raise MGMError(f"{path}: cannot be read as a spreadsheet ({error})") from error
    rows = sheet.iter_rows(values_only=True)
    columns = [str(name) for name in next(rows, ())]
    for row in rows:
        cells = zip(columns, row, strict=False)
        yield {name: "" if value is None else value for name, value in cells}


def _first(record: Mapping[str, Any], names: Sequence[str], where: str) -> Any:
    for name in names:
        if name in record:
            return record[name]
    raise MGMError(f"{where}: has none of {', '.join(names)}; it has {', '.join(record) or 'none'}")

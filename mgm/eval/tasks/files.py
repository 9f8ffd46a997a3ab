"""Files of benchmarks: what is wrong with them is said in one line."""

import ast
import base64
import csv
import json
import re
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mgm.atomic import write_errors
from mgm.errors import MGMError
from mgm.eval.harness.question import valid_text

_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
ROWS = 64  # of a parquet file that are read at once
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # images in base64 are long


class MissingFileError(MGMError):
    """A file or folder that a benchmark needs is not there.

    Attributes:
        description: of it in one clause, which begins with its path.
    """

    def __init__(self, path: Path, dataset: str = "") -> None:
        source = f" (data set {dataset})" if dataset else ""
        self.description = f"{path}: is missing{source}"
        super().__init__(f"{self.description}; python -m mgm.eval.prepare says what belongs there")


def present(path: Path) -> Path:
    """The path of a file or folder, which has to be there.

    Raises:
        MissingFileError: it is not.
    """
    if not path.exists():
        raise MissingFileError(path)
    return path


def read_json(path: Path) -> Any:
    """The JSON in a file.

    Raises:
        MGMError: it is missing, or no JSON.
    """
    present(path)
    try:
        return _parsed(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise MGMError(f"{path}: is no JSON ({error})") from error


def _parsed(content: bytes) -> Any:
    """The JSON in bytes, its texts in characters that every file can hold.

    Raises:
        ValueError: it is none.
        RecursionError: it is nested too deep.
    """
    value = json.loads(content)
    return _valid(value) if _ESCAPED_SURROGATE.search(content) else value


def _valid(value: Any) -> Any:
    if isinstance(value, str):
        return valid_text(value)
    if isinstance(value, list):
        return [_valid(one) for one in value]
    if isinstance(value, dict):
        return {valid_text(name): _valid(one) for name, one in value.items()}
    return value


def read_lines(
    path: Path, skipped: Callable[[str, str], None] | None = None
) -> Iterator[dict[str, Any]]:
    """The objects in a file of JSON lines.

    Args:
        path: of the file.
        skipped: called with where a line is, and why it is left out; None: that raises.

    Raises:
        MGMError: it is missing, or a line is no object.
    """
    with present(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where, fault = f"line {number}", ""
            try:
                record = _parsed(line)
            except (ValueError, RecursionError) as error:
                fault = f"is no JSON ({error})"
            else:
                if isinstance(record, dict):
                    yield record
                    continue
                fault = "is no JSON object"
            if skipped is None:
                raise MGMError(f"{path}, {where}: {fault}")
            skipped(where, fault)


def read_table(
    path: Path, between: str = "\t", skipped: Callable[[str, str], None] | None = None
) -> Iterator[dict[str, str]]:
    """The rows of a file whose columns are separated by tabs, or another character.

    Args:
        path: of the file.
        between: the character.
        skipped: called with where a row is, and why it is left out; None: that raises.

    Raises:
        MGMError: it is missing, is no text, or a row has too many columns.
    """
    number = 1
    try:
        with present(path).open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.DictReader(file, delimiter=between), start=2):
                if None in row:
                    where, fault = f"row {number}", "has more columns than the first"
                    if skipped is None:
                        raise MGMError(f"{path}, {where}: {fault}")
                    skipped(where, fault)
                    continue
                yield {key: value or "" for key, value in row.items()}
    except (csv.Error, UnicodeDecodeError) as error:
        raise MGMError(f"{path}, after row {number}: is no table ({error})") from error


def read_parquet(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a parquet file, some at a time.

    Raises:
        MGMError: it is damaged, or pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise _lacking("pyarrow", file) from error
    try:
        for batch in parquet.ParquetFile(file).iter_batches(ROWS):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise MGMError(f"{file}: cannot be read ({error}); fetch it again") from error


def import_openpyxl(file: Path) -> Any:
    """openpyxl, which reads and writes spreadsheets.

    Raises:
        MGMError: it is not installed.
    """
    try:
        import openpyxl
    except ImportError as error:
        raise _lacking("openpyxl", file) from error
    return openpyxl


def _lacking(package: str, file: Path) -> MGMError:
    return MGMError(f"{file}: needs {package}, which is not installed; pip install -e '.[eval]'")


def base64_image(text: str, where: str) -> bytes:
    """The bytes of an image in base64.

    Raises:
        MGMError: it is none.
    """
    try:
        return base64.b64decode(text, validate=False)
    except ValueError as error:
        raise MGMError(f"{where}: the image is no base64") from error


def field(record: dict[str, Any], name: str, where: object) -> Any:
    """A field that has to be there."""
    if name not in record:
        raise MGMError(f"{where}: has no {name!r}")
    return record[name]


def text_list(value: object) -> list[str]:
    """The texts in a field: a list, or in a table one text, or a list as Python writes it.

    Source: process_line of VLMEvalKit's vqa_eval.py.
    """
    if isinstance(value, str):
        try:
            parsed = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            parsed = value
        value = parsed if isinstance(parsed, list) else [value]
    return [str(one) for one in value or ()]  # ty: ignore[not-iterable]


def write_lines(path: Path, records: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> Path:
    """Write JSON lines; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(record, ensure_ascii=False, default=str) + "\n" for record in records)
    path.write_text(valid_text("".join(lines)), encoding="utf-8")
    return path


@contextmanager
def staged_files(folder: Path) -> Generator[Path]:
    """Give a fresh folder; when the block succeeds, its files go to their places in `folder`.

    Others that are there stay. On a full disk no file is cut.

    Raises:
        MGMError: a file cannot be written; names it or the folder.
    """
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=folder) as name:
            part = Path(name)
            yield part
            for file in sorted(path for path in part.rglob("*") if path.is_file()):
                target = folder / file.relative_to(part)
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)

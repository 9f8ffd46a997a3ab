"""Files of benchmarks: what is wrong with them is said in one line."""

import ast
import base64
import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mgm.errors import MGMError

ROWS = 64  # of a parquet file that are read at once
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # images in base64 are long


def present(path: Path) -> Path:
    """A file or folder that has to be there."""
    if not path.exists():
        raise MGMError(f"{path}: is missing; python -m mgm.eval.prepare says what belongs there")
    return path


def read_json(path: Path) -> Any:
    """The JSON in a file.

    Raises:
        MGMError: it is missing, or no JSON.
    """
    try:
        return json.loads(present(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise MGMError(f"{path}: is no JSON ({error})") from error


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects in a file of JSON lines.

    Raises:
        MGMError: it is missing, or a line is no object.
    """
    with present(path).open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise MGMError(f"{path}, line {number}: is no JSON ({error})") from error
            if not isinstance(record, dict):
                raise MGMError(f"{path}, line {number}: is no JSON object")
            yield record


def read_table(path: Path, between: str = "\t") -> Iterator[dict[str, str]]:
    """The rows of a file whose columns are separated by tabs, or another character.

    Raises:
        MGMError: it is missing, or a row has too many columns.
    """
    with present(path).open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file, delimiter=between), start=2):
            if None in row:
                raise MGMError(f"{path}, row {number}: has more columns than the first")
            yield {key: value or "" for key, value in row.items()}


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
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_text(text, encoding="utf-8")
    return path

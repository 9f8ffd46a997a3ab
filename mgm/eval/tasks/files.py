"""Reading and writing benchmark files (JSON, JSONL, TSV, parquet); errors are one line."""

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
PARQUET_BATCH = 64  # rows of a parquet file that are read at once
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # cells may contain images in base64


class MissingFileError(MGMError):
    """A required file or folder of a benchmark does not exist.

    Attributes:
        description: clause that starts with the path.
    """

    def __init__(self, path: Path, dataset: str = "") -> None:
        source = f" (data set {dataset})" if dataset else ""
        self.description = f"{path}: is missing{source}"
        super().__init__(f"{self.description}; python -m mgm.eval.prepare says where to get it")


def require_file(path: Path) -> Path:
    """Return the path if it exists.

    Raises:
        MissingFileError: it does not.
    """
    if not path.exists():
        raise MissingFileError(path)
    return path


def load_json(path: Path) -> Any:
    """Load a JSON file.

    Raises:
        MGMError: it is missing, or not JSON.
    """
    require_file(path)
    try:
        return _parsed(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise MGMError(f"{path}: not JSON ({error})") from error


def _parsed(content: bytes) -> Any:
    """Parse JSON; lone surrogates in strings are replaced, see `valid_text`.

    Raises:
        ValueError: not JSON.
        RecursionError: nested too deep.
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


def read_jsonl(
    path: Path, skipped: Callable[[str, str], None] | None = None
) -> Iterator[dict[str, Any]]:
    """Read the objects of a JSONL file.

    Args:
        path: path of the file.
        skipped: called with location and problem of each damaged line; None: a damaged line raises.

    Raises:
        MGMError: the file is missing, or a line is not a JSON object.
    """
    with require_file(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            location, problem = f"line {number}", ""
            try:
                record = _parsed(line)
            except (ValueError, RecursionError) as error:
                problem = f"not JSON ({error})"
            else:
                if isinstance(record, dict):
                    yield record
                    continue
                problem = "not a JSON object"
            if skipped is None:
                raise MGMError(f"{path}, {location}: {problem}")
            skipped(location, problem)


def read_table(
    path: Path, separator: str = "\t", skipped: Callable[[str, str], None] | None = None
) -> Iterator[dict[str, str]]:
    """Read the rows of a TSV file, or with another separator.

    Args:
        path: path of the file.
        separator: column separator.
        skipped: called with location and problem of each damaged row; None: a damaged row raises.

    Raises:
        MGMError: the file is missing or not a table, or a row has too many columns.
    """
    number = 1
    try:
        with require_file(path).open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.DictReader(file, delimiter=separator), start=2):
                if None in row:
                    location, problem = f"row {number}", "more columns than the header"
                    if skipped is None:
                        raise MGMError(f"{path}, {location}: {problem}")
                    skipped(location, problem)
                    continue
                yield {key: value or "" for key, value in row.items()}
    except (csv.Error, UnicodeDecodeError) as error:
        raise MGMError(f"{path}, after row {number}: not a table ({error})") from error


def read_parquet(file: Path) -> Iterator[dict[str, Any]]:
    """Read the rows of a parquet file in batches.

    Raises:
        MGMError: it is damaged, or pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise _missing_package("pyarrow", file) from error
    try:
        for batch in parquet.ParquetFile(file).iter_batches(PARQUET_BATCH):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise MGMError(f"{file}: cannot be read ({error}); download it again") from error


def import_openpyxl(file: Path) -> Any:
    """Import openpyxl, which reads and writes spreadsheets.

    Raises:
        MGMError: not installed.
    """
    try:
        import openpyxl
    except ImportError as error:
        raise _missing_package("openpyxl", file) from error
    return openpyxl


def _missing_package(package: str, file: Path) -> MGMError:
    return MGMError(f"{file}: needs {package}, which is not installed; pip install -e '.[eval]'")


def base64_image(text: str, where: str) -> bytes:
    """Decode an image in base64.

    Raises:
        MGMError: invalid base64.
    """
    try:
        return base64.b64decode(text, validate=False)
    except ValueError as error:
        raise MGMError(f"{where}: image is not base64") from error


def require_field(record: dict[str, Any], name: str, where: object) -> Any:
    """The value of a field; raises an MGMError if it is missing."""
    if name not in record:
        raise MGMError(f"{where}: has no {name!r}")
    return record[name]


def as_text_list(value: object) -> list[str]:
    """The list of texts in a field: a list, one text, or the Python literal of a list.

    Source: process_line of VLMEvalKit's vqa_eval.py.
    """
    if isinstance(value, str):
        try:
            parsed = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            parsed = value
        value = parsed if isinstance(parsed, list) else [value]
    return [str(one) for one in value or ()]  # ty: ignore[not-iterable]


def write_jsonl(path: Path, records: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> Path:
    """Write a JSONL file; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(record, ensure_ascii=False, default=str) + "\n" for record in records)
    path.write_text(valid_text("".join(lines)), encoding="utf-8")
    return path


@contextmanager
def staged_files(folder: Path) -> Generator[Path]:
    """Write files atomically: to a temporary folder, whose files are then moved to `folder`.

    Other files in `folder` are kept. On a full disk no file is truncated.

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

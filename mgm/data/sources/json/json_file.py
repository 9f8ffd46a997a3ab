"""Reads JSON and JSONL data files; the content, not the file name, decides which it is.

Files are read in chunks, so that memory is limited by the chunk size or the longest record.
"""

import codecs
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mgm.data.sources.file_kind import HEAD_BYTES, RejoinedFile, encoding_error, foreign_kind
from mgm.data.sources.formats.record import CAPTIONS, CHATS, parse_sample
from mgm.data.sources.json.json_text import Element, JSONText
from mgm.data.sources.sample import Sample, SampleError, value_kind
from mgm.data.sources.text_checks import JSON
from mgm.errors import MGMError, one_line

logger = logging.getLogger(__name__)

LOOK_BYTES = 2**20  # read to detect the form of the records
JSON_ENDINGS = (".json", ".jsonl", ".ndjson")
LINE_ENDINGS = (".jsonl", ".ndjson")
MIXTURE_FORM = '{"datasets": [{"path": ..., "weight": 1}, ...]}'


def read_samples(
    path: str | Path, on_fault: Callable[[int, MGMError], None] | None = None
) -> dict[int, Sample]:
    """Read all samples of a file, parsed and checked, with their indices.

    Args:
        path: JSON or JSONL file, see `read_json_records`.
        on_fault: called with a malformed sample, which is left out; None: it raises.

    Raises:
        MGMError: the file cannot be read or a sample is malformed; names the file and the sample.
    """
    samples: dict[int, Sample] = {}
    first_error: SampleError | None = None
    records = read_json_records(path)
    for index, record in enumerate(records):
        try:
            samples[index] = parse_sample(record, f"{Path(path)}: sample {index}")
        except SampleError as fault:
            if on_fault is None:
                raise
            first_error = first_error or fault
            on_fault(index, fault)
    if not samples:
        raise MGMError(
            f"{Path(path)}: none of its {len(records)} samples is usable; fix them; first error: "
            f"{first_error}"
        )
    return samples


def read_json_records(path: str | Path) -> list[Any]:
    """Read the raw records of a file; one that is not valid JSON is a `SampleError`.

    Args:
        path: a JSON file with a list of samples, or a JSONL file.

    Raises:
        MGMError: the file as a whole cannot be read, or has no records.
    """
    return [record for _, _, record in file_elements(Path(path))]


def file_elements(file: Path) -> Iterator[Element]:
    """The records of a file with their byte offsets.

    Raises:
        MGMError: the file as a whole cannot be read, or has no records.
    """
    try:
        content = file.open("rb")
    except (OSError, ValueError) as error:  # ValueError: NUL or a lone surrogate in the name
        raise unreadable(file, error) from error
    with content:
        try:
            yield from elements(content, f"{file}")
        except OSError as error:
            raise unreadable(file, error) from error


def unreadable(file: Path, error: OSError | ValueError) -> MGMError:
    """The error for a file that cannot be read."""
    reason = one_line(getattr(error, "strerror", None) or error)
    advice = "give a file in it" if file.is_dir() else "give a JSON or JSONL file of samples"
    return MGMError(f"{file}: cannot be read ({reason}); {advice}")


def elements(
    content: BinaryIO,
    name: str,
    start: int = 0,
    warn: Callable[[str], None] = logger.warning,
) -> Iterator[Element]:
    """The records of an open file with their byte offsets.

    Args:
        content: seekable file.
        name: prefix of errors.
        start: number of records to skip.
        warn: called with a message if the file is of another form than its name says.

    Raises:
        MGMError: the file as a whole cannot be read, or has no records.
    """
    head = content.read(LOOK_BYTES)
    kind = foreign_kind(head[:HEAD_BYTES])
    if kind is not None:
        raise MGMError(f"{name}: is {kind}")
    whole = io.BufferedReader(RejoinedFile(head, content), LOOK_BYTES)
    first = head.removeprefix(codecs.BOM_UTF8).lstrip(b" \t\r\n")[:1]
    expects_lines = name.endswith(LINE_ENDINGS)
    if first == b"[":
        if expects_lines:
            warn(f"{name}: contains a JSON list, not JSON lines; it is read as a list")
        records = _list(whole, name)
    elif first != b"{" and not (expects_lines and first):
        raise MGMError(f"{name}: {_no_records(first, name)}")
    elif _is_lines(head, expects_lines):
        if not expects_lines:
            warn(f"{name}: contains JSON lines, not a JSON list; it is read as JSON lines")
        records = _lines(whole, name, start)
    else:
        records = _objects(whole, name, warn)
    count = 0
    for count, element in enumerate(records, start=1):
        if count > start:
            yield element
    if not count:
        raise MGMError(f"{name}: contains no samples; give a file with at least one")


def decode_json(text: str, where: str) -> Any:
    """Parse JSON; raises a `SampleError` with the prefix `where`."""
    try:
        return JSON.decode(text)
    except (ValueError, RecursionError) as error:
        raise SampleError(
            f"{where}: is not valid JSON ({one_line(error)}); fix the syntax or write it again"
        ) from error


def _no_records(first: bytes, name: str) -> str:
    if first == b"":
        return "is not valid JSON: it contains only whitespace; download or copy it again"
    if name.endswith((".yaml", ".yml")):
        return f"is YAML; write a mixture as JSON: {MIXTURE_FORM}"
    if name.endswith((".csv", ".tsv")):
        return "is CSV; convert each row to a JSON object with 'conversations'"
    return "is not valid JSON, which starts with [ or {; give a list of samples, or JSON lines"


def _is_lines(head: bytes, expects_lines: bool) -> bool:
    """Whether each line is a record (JSONL), and not objects that span several lines.

    Args:
        head: first bytes of the file.
        expects_lines: whether its name says so.
    """
    lines = [line for line in head.removeprefix(codecs.BOM_UTF8).splitlines() if line.strip()]
    if len(lines) < 2 and len(head) == LOOK_BYTES:
        return expects_lines  # the first line is longer than `head`
    try:
        value = JSON.decode(lines[0].decode())
    except UnicodeDecodeError:
        return True  # other lines may be valid
    except RecursionError:
        return True  # a value nested this deeply is on one line
    except ValueError:  # a broken line, or the first of a value that spans several
        return lines[1].lstrip().startswith(b"{") if len(lines) > 1 else expects_lines
    return len(lines) > 1 or _is_record(value) or (expects_lines and _inner_list(value) is None)


def _is_record(value: Any) -> bool:
    return isinstance(value, dict) and any(name in value for name in (*CHATS, *CAPTIONS))


def _lines(content: BinaryIO, name: str, start: int) -> Iterator[Element]:
    begin, count = 0, 0
    for number, line in enumerate(content, start=1):
        mark = len(codecs.BOM_UTF8) if number == 1 and line.startswith(codecs.BOM_UTF8) else 0
        if line[mark:].strip():
            count += 1
            where = f"{name}: sample {count - 1}, line {number}"
            record = _line(line[mark:], where) if count > start else None
            yield begin + mark, begin + len(line), record
        begin += len(line)


def _line(line: bytes, where: str) -> Any:
    try:
        return decode_json(line.decode(), where)
    except SampleError as fault:
        return fault
    except UnicodeDecodeError as error:
        return SampleError(f"{where}: {encoding_error(error)}")


def _objects(content: BinaryIO, name: str, warn: Callable[[str], None]) -> Iterator[Element]:
    """Concatenated JSON objects, which may span several lines."""
    text = JSONText(content, name)
    text.peek()
    first = text.take()
    if text.peek():
        warn(f"{name}: contains concatenated JSON objects, not a list; each is read as a sample")
    elif not _is_record(first[2]):
        raise MGMError(f"{name}: {_one_object(first[2])}")
    yield first
    while text.peek():
        yield text.take()


def _inner_list(value: Any) -> str | None:
    """The key of an object whose value is a list of objects, which may be the samples."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        if isinstance(inner, list) and inner and isinstance(inner[0], dict):
            return key
    return None


def _one_object(value: Any) -> str:
    """The error, with a remedy, for a file with an object that is not a sample."""
    key = _inner_list(value)
    if key == "datasets":
        return (
            f"is not a valid mixture, which is a .json file with {MIXTURE_FORM} and no "
            "other keys; fix it"
        )
    if key is not None:
        return (
            f"is an object with a list in {key!r:.60}, not a list of samples; extract that list "
            f"(jq .{key:.60} FILE > NEW)"
        )
    return (
        f"is {value_kind(value)}, not a list of samples; write the samples as a JSON list or as "
        f"JSON lines, or give a mixture: {MIXTURE_FORM}"
    )


def _list(content: BinaryIO, name: str) -> Iterator[Element]:
    """The elements of a JSON list with their byte offsets."""
    text = JSONText(content, name)
    text.peek()
    text.skip(1)
    if text.peek() == "]":
        text.skip(1)
        if text.peek():
            raise text.error("data after the end of the list")
        return
    while True:
        yield text.take()
        after = text.peek()
        text.skip(1)
        if after == "]":
            if text.peek():
                raise text.error("data after the end of the list")
            return
        if after != ",":
            raise text.error("end of file within the list" if not after else "missing comma")
        text.peek()

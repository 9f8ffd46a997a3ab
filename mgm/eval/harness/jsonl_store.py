"""Append-only JSONL key-value store that tolerates a torn last line.

Damaged lines, such as one that a killed process did not finish, are skipped.
"""

import json
from pathlib import Path
from typing import Any

from mgm.atomic import write_errors
from mgm.eval.harness.question import valid_text


def load_texts(file: Path) -> tuple[dict[str, str], int]:
    """Load the texts by key, and the number of damaged lines."""
    records, damaged = load_entries(file)
    return {key: record["text"] for key, record in records.items()}, damaged


def load_entries(file: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """Load the records by key, each with a `text`, and the number of damaged lines."""
    entries: dict[str, dict[str, Any]] = {}
    damaged = 0
    if file.is_file():
        with file.open("rb") as lines:
            for line in lines:
                try:
                    record = json.loads(line)
                    key, text = record["key"], record["text"]
                except (ValueError, LookupError, TypeError, RecursionError):
                    damaged += 1
                    continue
                if isinstance(key, str) and isinstance(text, str):
                    entries[key] = record | {"text": valid_text(text)}
                else:
                    damaged += 1
    return entries, damaged


class JSONLStore:
    """A JSONL file that a single process appends to.

    Args:
        path: path of the file; created with the first record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ends_with_newline = False  # False: unknown

    def append(self, key: str, text: str, **details: float | str | None) -> None:
        """Append a record and flush it to disk.

        Args:
            key: key of the record; the last record of a key wins.
            text: the value.
            **details: further fields.

        Raises:
            MGMError: the disk is full or not writable; names the file.
        """
        record = {"key": key, "text": valid_text(text), **details}
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        with write_errors(self.path):
            if not self._ends_with_newline:  # terminate the torn line of a killed process
                self.path.parent.mkdir(parents=True, exist_ok=True)
                if self.path.is_file() and not _file_ends_with_newline(self.path):
                    line = "\n" + line
            self._ends_with_newline = False  # until the whole line is written
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
            self._ends_with_newline = True


def _file_ends_with_newline(file: Path) -> bool:
    with file.open("rb") as content:
        if content.seek(0, 2) == 0:
            return True
        content.seek(-1, 2)
        return content.read(1) == b"\n"

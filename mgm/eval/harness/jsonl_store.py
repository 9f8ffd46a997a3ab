"""Texts by keys in a file that only grows: a line for each, written at once.

A line that is damaged, such as one that a killed program did not finish, is passed over.
"""

import json
from pathlib import Path
from typing import Any

from mgm.atomic import write_errors
from mgm.eval.harness.question import valid_text


def read_texts(file: Path) -> tuple[dict[str, str], int]:
    """The texts in a file, and how many lines are damaged."""
    records, damaged = read_records(file)
    return {key: record["text"] for key, record in records.items()}, damaged


def read_records(file: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """The records in a file by their keys, each with its `text`, and how many lines are damaged."""
    known: dict[str, dict[str, Any]] = {}
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
                    known[key] = record | {"text": valid_text(text)}
                else:
                    damaged += 1
    return known, damaged


class TextFile:
    """A file that texts are added to, by one process.

    Args:
        path: of it; it and its folder appear with the first text.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ends_with_line = False  # whether that is known

    def add(self, key: str, text: str, **details: float | str | None) -> None:
        """Write a text, at once, with what else is known of it.

        Raises:
            MGMError: it cannot be written, such as on a full disk; names the file.
        """
        record = {"key": key, "text": valid_text(text), **details}
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        with write_errors(self.path):
            if not self._ends_with_line:  # what a killed program left of its last line ends here
                self.path.parent.mkdir(parents=True, exist_ok=True)
                if self.path.is_file() and not _ends_with_a_line(self.path):
                    line = "\n" + line
            self._ends_with_line = False  # until all of it is written
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
            self._ends_with_line = True


def _ends_with_a_line(file: Path) -> bool:
    with file.open("rb") as content:
        if content.seek(0, 2) == 0:
            return True
        content.seek(-1, 2)
        return content.read(1) == b"\n"

"""Texts by keys in a file that only grows: a line for each, written at once.

A line that is damaged, such as one that a killed program did not finish, is passed over.
"""

import json
from pathlib import Path

from mgm.atomic import WriteErrors
from mgm.eval.harness.question import valid_text


def read_texts(file: Path) -> tuple[dict[str, str], int]:
    """The texts in a file, and how many lines are damaged."""
    known: dict[str, str] = {}
    damaged = 0
    if file.is_file():
        with file.open("rb") as lines:
            for line in lines:
                try:
                    entry = json.loads(line)
                    key, text = entry["key"], entry["text"]
                except (ValueError, LookupError, TypeError, RecursionError):
                    damaged += 1
                    continue
                if isinstance(key, str) and isinstance(text, str):
                    known[key] = valid_text(text)
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

    def add(self, key: str, text: str) -> None:
        """Write a text, at once.

        Raises:
            MGMError: it cannot be written, such as on a full disk; names the file.
        """
        line = json.dumps({"key": key, "text": valid_text(text)}, ensure_ascii=False) + "\n"
        with WriteErrors(self.path):
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

"""Texts by keys in a file that only grows: a line for each, written at once.

A line that was not finished, because the program was killed, is passed over.
"""

import json
from pathlib import Path


def read_texts(file: Path) -> tuple[dict[str, str], int]:
    """The texts in a file, and how many lines were not finished."""
    known: dict[str, str] = {}
    torn = 0
    if file.is_file():
        with file.open("rb") as lines:
            for line in lines:
                try:
                    entry = json.loads(line)
                    known[entry["key"]] = entry["text"]
                except (ValueError, KeyError, TypeError):
                    torn += 1
    return known, torn


class TextFile:
    """A file that texts are added to, by one process.

    Args:
        path: of it; it and its folder appear with the first text.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begun = False

    def add(self, key: str, text: str) -> None:
        """Write a text, at once.

        Raises:
            OSError: it cannot be written.
        """
        line = json.dumps({"key": key, "text": text}, ensure_ascii=False) + "\n"
        torn = False
        if not self._begun:  # what a killed program left of its last line ends here
            self.path.parent.mkdir(parents=True, exist_ok=True)
            torn = self.path.is_file() and not _ends_with_a_line(self.path)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("\n" if torn else "") + line)
        self._begun = True


def _ends_with_a_line(file: Path) -> bool:
    with file.open("rb") as content:
        if content.seek(0, 2) == 0:
            return True
        content.seek(-1, 2)
        return content.read(1) == b"\n"

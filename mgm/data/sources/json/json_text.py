"""Incremental JSON parser: yields the values of a file that need not fit into memory."""

import codecs
import json
import re
from typing import Any, BinaryIO

from mgm.data.sources.file_kind import encoding_error
from mgm.data.sources.text_checks import JSON
from mgm.errors import MGMError, one_line

JSON_CHUNK_BYTES = 16 * 2**20  # read at a time
Element = tuple[int, int, Any]  # first byte, byte after the last, and the record or its error

_SPACE = re.compile(r"[ \t\n\r]+")  # whitespace of JSON
_TAIL = 16  # characters at the end of a chunk in which an error may be a truncated value


class JSONText:
    """JSON text read chunk by chunk, with the byte offset of the current position."""

    def __init__(self, content: BinaryIO, name: str) -> None:
        self.content, self.name = content, name
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.decode = JSON.raw_decode
        self.text: str = ""
        self.at, self.byte, self.ended = 0, 0, False
        self.bytes_read, self.taken = 0, 0
        if self.next() == "\ufeff":  # byte order mark
            self.skip(1)

    def next(self) -> str:
        """The next character, not consumed; "" at the end."""
        while self.at == len(self.text) and not self.ended:
            self._more()
        return self.text[self.at : self.at + 1]

    def peek(self) -> str:
        """Skip whitespace; returns the next character without consuming it, "" at the end."""
        self.next()
        while space := _SPACE.match(self.text, self.at):
            self.skip(space.end() - self.at)
            self.next()
        return self.next()

    def skip(self, count: int) -> None:
        """Advance by a number of characters."""
        self.byte += len(self.text[self.at : self.at + count].encode())
        self.at += count

    def take(self) -> Element:
        """Parse the value at the current position; returns its start, its end and the value.

        Raises:
            MGMError: there is no valid value.
        """
        while True:
            try:
                value, end = self.decode(self.text, self.at)
            except RecursionError as error:
                raise self.error("nested too deeply") from error
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos + _TAIL >= len(self.text)
                if self.ended or not cut:
                    self.skip(error.pos - self.at)
                    raise self.error(error.msg) from error
            else:
                # A number at the end of the chunk may be incomplete.
                if end < len(self.text) or self.ended:
                    begin = self.byte
                    self.skip(end - self.at)
                    self.taken += 1
                    return begin, self.byte, value
            self._more()

    def error(self, reason: str) -> MGMError:
        """The error for invalid JSON at the current position."""
        return MGMError(
            f"{self.name}: is not valid JSON at sample {self.taken}, byte {self.byte:,} "
            f"({one_line(reason)}); fix the syntax, or download or copy the file again"
        )

    def _more(self) -> None:
        chunk = self.content.read(JSON_CHUNK_BYTES)
        self.bytes_read += len(chunk)
        self.ended = not chunk
        try:
            decoded = self.decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            offset = self.bytes_read - len(error.object)
            raise MGMError(f"{self.name}: {encoding_error(error, offset)}") from error
        self.text = self.text[self.at :] + decoded
        self.at = 0

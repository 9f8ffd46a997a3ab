"""Incremental JSON parser: values in order, of a file that need not fit into memory."""

import codecs
import json
import re
from typing import Any, BinaryIO

from mgm.data.sources.file_kind import encoding_error
from mgm.data.sources.text_checks import JSON
from mgm.errors import MGMError, one_line

JSON_CHUNK_BYTES = 16 * 2**20  # that are read at once
Element = tuple[int, int, Any]  # first byte, byte after the last, and the record or its error

_SPACE = re.compile(r"[ \t\n\r]+")  # of JSON
_TAIL = 16  # characters: what is wrong there may be a value that the chunk cuts


class JSONText:
    """Text of a file of JSON, read chunk by chunk, that knows at which byte it is."""

    def __init__(self, content: BinaryIO, name: str) -> None:
        self.content, self.name = content, name
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.decode = JSON.raw_decode
        self.text: str = ""
        self.at, self.byte, self.ended = 0, 0, False
        self.bytes_read, self.taken = 0, 0
        if self.next() == "\ufeff":  # some programs begin files with a mark
            self.skip(1)

    def next(self) -> str:
        """The next character; "" at the end."""
        while self.at == len(self.text) and not self.ended:
            self._more()
        return self.text[self.at : self.at + 1]

    def peek(self) -> str:
        """The next character that is no space; "" at the end."""
        self.next()
        while space := _SPACE.match(self.text, self.at):
            self.skip(space.end() - self.at)
            self.next()
        return self.next()

    def skip(self, count: int) -> None:
        """Go on by some characters."""
        self.byte += len(self.text[self.at : self.at + count].encode())
        self.at += count

    def take(self) -> Element:
        """The value that begins here, with its first byte and the byte after it.

        Raises:
            MGMError: there is none.
        """
        while True:
            try:
                value, end = self.decode(self.text, self.at)
            except RecursionError as error:
                raise self.error("it is nested too deeply") from error
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos + _TAIL >= len(self.text)
                if self.ended or not cut:
                    self.skip(error.pos - self.at)
                    raise self.error(error.msg) from error
            else:
                # A number that ends where the chunk does may go on.
                if end < len(self.text) or self.ended:
                    begin = self.byte
                    self.skip(end - self.at)
                    self.taken += 1
                    return begin, self.byte, value
            self._more()

    def error(self, reason: str) -> MGMError:
        """What to say where the text is no JSON."""
        return MGMError(
            f"{self.name}: is not valid JSON at sample {self.taken}, byte {self.byte:,} "
            f"({one_line(reason)}); fix it there, or get a whole copy"
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

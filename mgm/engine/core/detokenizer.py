"""Token ids to text, as they come."""

import codecs
from collections.abc import Sequence
from typing import cast

from transformers import PreTrainedTokenizerBase

_UNFINISHED = "\ufffd"  # what a decoder makes of bytes that are not (yet) a character


class TextStream:
    """The text of an answer while its tokens arrive.

    `take` gives only text that later tokens cannot change: no part of a character, and nothing that
    may turn out to be the beginning of a stop text.

    Args:
        tokenizer: turns ids into text; special tokens become nothing.
        stops: texts that end the answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str] = ()) -> None:
        self.text = ""
        self.stopped = False  # whether a stop text was met; `text` ends before it
        self._tokenizer = tokenizer
        self._stops = tuple(stops)
        self._ids: list[int] = []
        self._context = 0  # ids from here on are decoded: enough to know about spaces in between
        self._decoded = 0  # ids before this one are in `text`
        self._taken = 0  # characters
        self._bytes = _byte_tokens(tokenizer)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> None:
        """Add one token."""
        if token in self._bytes:
            # The tokenizer itself makes nothing of a row of bytes if one of them is wrong.
            self._decode(unfinished=True)
            self._ids.append(token)
            self._append(self._utf8.decode(bytes([self._bytes[token]])))
            self._decoded = len(self._ids)
            return
        self._append(self._utf8.decode(b"", final=True))
        self._ids.append(token)
        self._decode(unfinished=False)

    def finish(self) -> None:
        """Let no more tokens come: what was held back is text now."""
        self._append(self._utf8.decode(b"", final=True))
        self._decode(unfinished=True)
        self._stops = ()

    def take(self) -> str:
        """The certain text since the last call."""
        certain = len(self.text)
        if not self.stopped:
            certain -= max((_overlap(self.text, stop) for stop in self._stops), default=0)
        piece = self.text[self._taken : certain]
        self._taken = max(self._taken, certain)
        return piece

    def _decode(self, unfinished: bool) -> None:
        if self._decoded == len(self._ids):
            return
        known = self._text_of(self._ids[self._context : self._decoded])
        text = self._text_of(self._ids[self._context :])
        if text.endswith(_UNFINISHED) and not unfinished:
            return
        if len(text) > len(known):
            self._append(text[len(known) :])
            self._context = self._decoded
        self._decoded = len(self._ids)

    def _append(self, piece: str) -> None:
        if self.stopped:
            return
        longest = max(map(len, self._stops), default=0)
        begin = max(len(self.text) - longest, 0)
        self.text += piece
        places = [self.text.find(stop, begin) for stop in self._stops]
        places = [place for place in places if place >= 0]
        if places:
            self.text = self.text[: min(places)]
            self.stopped = True

    def _text_of(self, ids: list[int]) -> str:
        text = self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return cast(str, text)


def _byte_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, int]:
    """Tokens that stand for one byte each, with that byte; none in most tokenizers."""
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    ids = cast(list[int | None], tokenizer.convert_tokens_to_ids(names))
    if None in ids or len(set(ids)) < 256:
        return {}
    return {token: byte for byte, token in enumerate(ids) if token is not None}


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that `stop` begins with."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0

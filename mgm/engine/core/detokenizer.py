"""Incremental detokenizer: token ids to text, and the part of the text that is each token's."""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from mgm.engine.core.token_bytes import TokenBytes
from mgm.model.files.rust_panics import panics_as_errors

_REPLACEMENT = "\ufffd"  # what a decoder makes of bytes that are not (yet) a character


class TokenText(NamedTuple):
    """What a token is of a text.

    Attributes:
        text: joined over all tokens, this is the text. A character of several tokens is its last
            token's; those before have none.
        utf8: joined over all tokens, these are the text's bytes. Each token of a character has its
            own bytes; where bytes are no character, the last has those of U+FFFD.
    """

    text: str
    utf8: bytes


@dataclass(frozen=True)
class TokenSpan:
    """A token's part of the text.

    Attributes:
        start: characters before it.
        end: characters that have to be certain before it is.
    """

    part: TokenText
    start: int
    end: int


class IncrementalDetokenizer:
    """The text of an answer while its tokens arrive.

    `take` gives only text that later tokens cannot change: no part of a character, and nothing that
    may turn out to be the beginning of a stop text. It ends where a token ends.

    Args:
        vocabulary: the tokenizer, and the bytes of its tokens; special tokens become nothing.
        stops: texts that end the answer.
        by_bytes: whether the text is the bytes of the tokens, without what the tokenizer changes
            between them (a leading blank, for most sentencepiece models).
        context: the last tokens of a text that this one goes on with: a tokenizer that leaves out
            the blank before a text does so only where these are no text. Ids that are no tokens
            are left out.

    Attributes:
        text: so far, up to the stop text.
        stopped: whether a stop text was met.
        taken_tokens: tokens whose text was taken.
    """

    def __init__(
        self,
        vocabulary: TokenBytes,
        stops: Sequence[str] = (),
        by_bytes: bool = False,
        context: Sequence[int] = (),
    ) -> None:
        self.text = ""
        self.stopped = False
        self.taken_tokens = 0
        self._vocabulary = vocabulary
        self._stops = tuple(stops)
        self._by_bytes = by_bytes
        self._ids = [token for token in context if vocabulary.is_token(token)]
        self._first = len(self._ids)  # where the text's own ids begin
        self._context = 0  # ids from here on are decoded: enough to know about blanks in between
        self._decoded = self._first  # ids before this one are in `text`, or before it
        self._taken = 0  # characters
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._spans: list[TokenSpan] = []  # of tokens whose text is known
        self._written = 0  # characters of all of these, those of a stop text and behind it too

    def spans(self, first: int, end: int) -> list[TokenSpan]:
        """What some tokens are of the text, as far as that is known, up to the stop text."""
        return self._spans[first:end]

    def push(self, token: int) -> None:
        """Add one token."""
        if self.stopped:
            return
        raw = self._raw(token)
        if raw is not None:
            # The tokenizer itself makes nothing of a row of bytes if one of them is wrong.
            text = self._decode(unfinished=True)
            self._ids.append(token)
            self._decoded = len(self._ids)
            text += self._utf8.decode(raw)
            complete = not self._utf8.getstate()[0]
        else:
            text = self._utf8.decode(b"", final=True)
            self._ids.append(token)
            text += self._decode(unfinished=False)
            complete = self._decoded == len(self._ids)
        self._append(text, complete)

    def finish(self) -> None:
        """Let no more tokens come: what was held back is text now."""
        if not self.stopped:
            text = self._utf8.decode(b"", final=True) + self._decode(unfinished=True)
            self._append(text, complete=True)
        self._stops = ()

    def take(self) -> str:
        """The certain text since the last call."""
        held_back = max((_overlap(self.text, stop) for stop in self._stops), default=0)
        certain = self._written if self.stopped else len(self.text) - held_back
        first = self._taken
        while self.taken_tokens < len(self._spans):
            span = self._spans[self.taken_tokens]
            if span.end > certain:
                break
            self._taken = span.start + len(span.part.text)
            self.taken_tokens += 1
        return self.text[first : self._taken]

    def candidate(self, token: int) -> TokenText:
        """What a token would be of the text if it came next.

        A special token is its name; bytes that are no characters are written `bytes:\\xf0\\x9f`.
        """
        if self._vocabulary.is_special(token):
            name = self._vocabulary.name(token)
            return TokenText(name, name.encode())
        if not (self.text or self._by_bytes) and self._decoded == len(self._ids):
            # A leading blank may be left out.
            text = self._text_of([*self._ids, token])[len(self._text_of(self._ids)) :]
            if not text.endswith(_REPLACEMENT):
                return TokenText(text, text.encode())
        raw = self._vocabulary.of(token)
        try:
            return TokenText(raw.decode(), raw)
        except UnicodeDecodeError:
            return TokenText("bytes:" + "".join(f"\\x{byte:02x}" for byte in raw), raw)

    def _raw(self, token: int) -> bytes | None:
        """The bytes of a token that is decoded by its bytes; None: the tokenizer decodes it."""
        if self._by_bytes:
            return self._vocabulary.of(token)
        byte = self._vocabulary.single_byte(token)
        return None if byte is None else bytes([byte])

    def _decode(self, unfinished: bool) -> str:
        """The text of ids that are not decoded yet."""
        if self._decoded == len(self._ids):
            return ""
        known = self._text_of(self._ids[self._context : self._decoded])
        text = self._text_of(self._ids[self._context :])
        if text.endswith(_REPLACEMENT) and not unfinished:
            return ""
        if len(text) > len(known):
            self._context = self._decoded
        self._decoded = len(self._ids)
        return text[len(known) :]

    def _append(self, text: str, complete: bool) -> None:
        """Add text; if it is complete, all tokens so far are known to have no more of it."""
        longest = max(map(len, self._stops), default=0)
        search_from = max(len(self.text) - longest, 0)
        self.text += text
        if complete:
            self._attribute(self.text[self._written :])
        found = [self.text.find(stop, search_from) for stop in self._stops]
        found = [index for index in found if index >= 0]
        if found:
            if not complete:
                self._attribute(self.text[self._written :])
            self._cut(min(found))

    def _attribute(self, text: str) -> None:
        """Say what is whose, of text that the tokens since the last call made."""
        tokens = self._ids[self._first + len(self._spans) :]
        if not tokens:
            return
        start, end = self._written, self._written + len(text)
        self._written = end
        if len(tokens) == 1:
            self._spans.append(TokenSpan(TokenText(text, text.encode()), start, end))
            return
        spans: list[TokenSpan] = []
        until = end
        for part in reversed(_divide(text, [self._vocabulary.of(token) for token in tokens])):
            start = end - len(part.text)
            # A token of half a character is certain when the character is.
            until = end if part.text else until
            spans.append(TokenSpan(part, start, until))
            end = start
        self._spans += reversed(spans)

    def _cut(self, length: int) -> None:
        """Leave out what begins behind so many characters, which a stop text follows on."""
        self.text, self.stopped = self.text[:length], True
        while self._spans and self._spans[-1].start >= length:
            self._spans.pop()
        if self._spans:
            last = self._spans[-1]
            kept = last.part.text[: length - last.start]
            surplus = len(last.part.text[len(kept) :].encode())
            utf8 = last.part.utf8[: len(last.part.utf8) - surplus]
            self._spans[-1] = TokenSpan(TokenText(kept, utf8), last.start, last.end)

    def _text_of(self, ids: list[int]) -> str:
        with panics_as_errors():  # a broken decoder may fail on some tokens alone
            text = self._vocabulary.tokenizer.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        return cast(str, text)


def _divide(text: str, raw: Sequence[bytes]) -> list[TokenText]:
    """The parts of a text that several tokens made together, whose bytes these are."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    texts = [decoder.decode(one) for one in raw]
    texts[-1] += decoder.decode(b"", final=True)
    if "".join(texts) != text:  # the tokenizer's decoder has changed something between them
        texts = [""] * (len(raw) - 1) + [text]
    if b"".join(raw) == text.encode():
        return list(map(TokenText, texts, raw))
    return [TokenText(part, part.encode()) for part in texts]


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that `stop` begins with."""
    length = min(len(stop) - 1, len(text))
    while length > 0:
        # Only where the text's last character is in the stop text may the two overlap.
        length = stop.rfind(text[-1], 0, length) + 1
        if length and text.endswith(stop[:length]):
            break
        length -= 1
    return max(length, 0)

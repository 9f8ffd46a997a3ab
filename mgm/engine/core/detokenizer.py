"""Incremental detokenizer: streams text from token ids, finds stop strings, maps text to tokens."""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from mgm.engine.core.token_bytes import TokenBytes
from mgm.model.files.rust_panics import panics_as_errors

_REPLACEMENT = "\ufffd"  # U+FFFD, decoded from bytes that are not valid UTF-8 (yet)


class TokenText(NamedTuple):
    """The part of the output text that belongs to one token, as in OpenAI's `logprobs`.

    Attributes:
        text: its characters. If several tokens make one character, the last one has it, and the
            others are empty. The parts of all tokens, joined, are the output text.
        utf8: its bytes; a token with a part of a character has that part. The bytes of all tokens,
            joined, are the output in UTF-8. For invalid UTF-8 the last token has U+FFFD.
    """

    text: str
    utf8: bytes


@dataclass(frozen=True)
class TokenSpan:
    """Where the text of a token is in the output.

    Attributes:
        part: text and bytes of the token.
        start: index of its first character in the output.
        end: the token can be streamed when this many characters of the output are final.
    """

    part: TokenText
    start: int
    end: int


class IncrementalDetokenizer:
    """Decodes the output of one sequence token by token.

    As in vLLM, a window of the last tokens is decoded again with each new token, since tokenizers
    put blanks between tokens depending on their neighbours. `pop_text` returns only final text:
    it holds back bytes that are not a whole character yet, and a suffix that may be the start of a
    stop string. What it returns always ends at the end of a token.

    Args:
        vocabulary: the tokenizer, and the bytes of its tokens; special tokens have none.
        stop_strings: strings that end the text.
        by_bytes: whether to concatenate the bytes of tokens instead of calling the tokenizer's
            decoder (which drops a leading blank in most sentencepiece models).
        context: the last prompt tokens, if the output continues the text of the prompt: the leading
            blank of the output is then kept, unless the context decodes to an empty text. Ids that
            are not in the vocabulary, such as those of images, are ignored.

    Attributes:
        text: decoded text so far, up to the stop string.
        stopped: whether a stop string occurred.
        num_popped_tokens: number of tokens whose text `pop_text` has returned.
    """

    def __init__(
        self,
        vocabulary: TokenBytes,
        stop_strings: Sequence[str] = (),
        by_bytes: bool = False,
        context: Sequence[int] = (),
    ) -> None:
        self.text = ""
        self.stopped = False
        self.num_popped_tokens = 0
        self._vocabulary = vocabulary
        self._stop_strings = tuple(stop_strings)
        self._by_bytes = by_bytes
        self._ids = [token for token in context if vocabulary.is_token(token)]
        self._first = len(self._ids)  # index of the first output token
        self._context = 0  # start of the window that is decoded again
        self._decoded = self._first  # index of the first token that is not decoded yet
        self._popped = 0  # number of characters that `pop_text` has returned
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._spans: list[TokenSpan] = []  # spans of the tokens decoded so far
        self._attributed = 0  # characters in these spans, including a stop string

    def spans(self, first: int, end: int) -> list[TokenSpan]:
        """Spans of the output tokens from `first` to `end`, without those after a stop string."""
        return self._spans[first:end]

    def append(self, token: int) -> None:
        """Decode one more token."""
        if self.stopped:
            return
        raw = self._raw(token)
        if raw is not None:
            # Byte tokens are decoded here: the tokenizer drops all bytes if one is invalid.
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
        """End the output; text that was held back becomes final."""
        if not self.stopped:
            text = self._utf8.decode(b"", final=True) + self._decode(unfinished=True)
            self._append(text, complete=True)
        self._stop_strings = ()

    def pop_text(self) -> str:
        """Final text since the last call."""
        held_back = max((_overlap(self.text, stop) for stop in self._stop_strings), default=0)
        final = self._attributed if self.stopped else len(self.text) - held_back
        first = self._popped
        while self.num_popped_tokens < len(self._spans):
            span = self._spans[self.num_popped_tokens]
            if span.end > final:
                break
            self._popped = span.start + len(span.part.text)
            self.num_popped_tokens += 1
        return self.text[first : self._popped]

    def candidate(self, token: int) -> TokenText:
        """The text that a token would add if it were the next one, for `top_logprobs`.

        For a special token this is its name; for bytes that are not a character `bytes:\\xf0\\x9f`.
        """
        if self._vocabulary.is_special(token):
            name = self._vocabulary.name(token)
            return TokenText(name, name.encode())
        if not (self.text or self._by_bytes) and self._decoded == len(self._ids):
            # The tokenizer may drop the blank of the first token.
            text = self._text_of([*self._ids, token])[len(self._text_of(self._ids)) :]
            if not text.endswith(_REPLACEMENT):
                return TokenText(text, text.encode())
        raw = self._vocabulary.of(token)
        try:
            return TokenText(raw.decode(), raw)
        except UnicodeDecodeError:
            return TokenText("bytes:" + "".join(f"\\x{byte:02x}" for byte in raw), raw)

    def _raw(self, token: int) -> bytes | None:
        """The bytes of a token that is decoded here; None: the tokenizer decodes it."""
        if self._by_bytes:
            return self._vocabulary.of(token)
        byte = self._vocabulary.single_byte(token)
        return None if byte is None else bytes([byte])

    def _decode(self, unfinished: bool) -> str:
        """Decode the new tokens; "" if they end within a character, unless `unfinished` is true."""
        if self._decoded == len(self._ids):
            return ""
        before = self._text_of(self._ids[self._context : self._decoded])
        text = self._text_of(self._ids[self._context :])
        if text.endswith(_REPLACEMENT) and not unfinished:
            return ""
        if len(text) > len(before):
            self._context = self._decoded
        self._decoded = len(self._ids)
        return text[len(before) :]

    def _append(self, text: str, complete: bool) -> None:
        """Append text, and truncate at a stop string; `complete`: all tokens are decoded."""
        longest = max(map(len, self._stop_strings), default=0)
        search_from = max(len(self.text) - longest, 0)
        self.text += text
        if complete:
            self._attribute(self.text[self._attributed :])
        starts = [self.text.find(stop, search_from) for stop in self._stop_strings]
        starts = [index for index in starts if index >= 0]
        if starts:
            if not complete:
                self._attribute(self.text[self._attributed :])
            self._truncate(min(starts))

    def _attribute(self, text: str) -> None:
        """Assign new text to the tokens since the last call."""
        tokens = self._ids[self._first + len(self._spans) :]
        if not tokens:
            return
        start, end = self._attributed, self._attributed + len(text)
        self._attributed = end
        if len(tokens) == 1:
            self._spans.append(TokenSpan(TokenText(text, text.encode()), start, end))
            return
        spans: list[TokenSpan] = []
        until = end
        for part in reversed(_divide(text, [self._vocabulary.of(token) for token in tokens])):
            start = end - len(part.text)
            # A token with part of a character is final when the character is.
            until = end if part.text else until
            spans.append(TokenSpan(part, start, until))
            end = start
        self._spans += reversed(spans)

    def _truncate(self, length: int) -> None:
        """Truncate the text at a stop string that starts at index `length`."""
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
        with panics_as_errors():  # an invalid decoder may panic for some tokens
            text = self._vocabulary.tokenizer.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        return cast(str, text)


def _divide(text: str, raw: Sequence[bytes]) -> list[TokenText]:
    """Split a text into the parts of the tokens that it was decoded from, given their bytes."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    texts = [decoder.decode(one) for one in raw]
    texts[-1] += decoder.decode(b"", final=True)
    if "".join(texts) != text:  # the tokenizer added or removed characters
        texts = [""] * (len(raw) - 1) + [text]
    if b"".join(raw) == text.encode():
        return list(map(TokenText, texts, raw))
    return [TokenText(part, part.encode()) for part in texts]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of `text` that is a proper prefix of `stop`."""
    length = min(len(stop) - 1, len(text))
    while length > 0:
        # They can only overlap where the text's last character occurs in the stop string.
        length = stop.rfind(text[-1], 0, length) + 1
        if length and text.endswith(stop[:length]):
            break
        length -= 1
    return max(length, 0)

"""Vocabulary bytes: the bytes of text that each token id stands for."""

from functools import lru_cache
from typing import cast

from transformers import PreTrainedTokenizerFast

_SPACE = "▁"  # sentencepiece's character for a blank
_BYTE_LEVEL_SPACE = "Ġ"  # byte-level BPE's character for a blank


class TokenBytes:
    """Maps token ids to the bytes that they add to a text.

    They are independent of context: the detokenizer handles tokenizers that drop the leading blank
    of a text.

    Args:
        tokenizer: byte-level BPE, or a sentencepiece model with or without tokens for bytes
            (`<0x0A>`).

    Attributes:
        tokenizer: the tokenizer of this vocabulary.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        self._added = {token: one.content for token, one in added.items()}
        self._special = frozenset(token for token, one in added.items() if one.special)
        self._bytes_of_tokens = _byte_fallback_tokens(tokenizer)
        self._letters = _byte_level_alphabet() if _is_byte_level(tokenizer) else None
        self._bytes: dict[int, bytes] = {}  # bytes computed so far, by token

    def of(self, token: int) -> bytes:
        """Bytes of a token; empty for special tokens and ids beyond the vocabulary."""
        if token not in self._bytes:
            self._bytes[token] = self._compute(token)
        return self._bytes[token]

    def single_byte(self, token: int) -> int | None:
        """The byte of a byte-fallback token such as `<0x0A>`; None for other tokens."""
        return self._bytes_of_tokens.get(token)

    def is_special(self, token: int) -> bool:
        """Whether a token is special: no text, such as a stop token."""
        return token in self._special

    def is_token(self, token: int) -> bool:
        """Whether an id is in the vocabulary."""
        return 0 <= token < len(self.tokenizer)

    def name(self, token: int) -> str:
        """The token as its vocabulary spells it."""
        return cast(str | None, self.tokenizer.convert_ids_to_tokens(token)) or f"token_id:{token}"

    def _compute(self, token: int) -> bytes:
        if token in self._special:
            return b""
        if token in self._bytes_of_tokens:
            return bytes([self._bytes_of_tokens[token]])
        text = cast(str | None, self.tokenizer.convert_ids_to_tokens(token))
        if text is None:
            return b""
        if self._letters is not None:
            if all(letter in self._letters for letter in text):
                return bytes(self._letters[letter] for letter in text)
            return text.encode()
        # Added tokens stand for exactly their own text.
        return (text if token in self._added else text.replace(_SPACE, " ")).encode()


def _byte_fallback_tokens(tokenizer: PreTrainedTokenizerFast) -> dict[int, int]:
    """Byte-fallback tokens, which stand for one byte each; most tokenizers have none."""
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    ids = cast(list[int | None], tokenizer.convert_tokens_to_ids(names))
    if None in ids or len(set(ids)) < 256:
        return {}
    return {token: byte for byte, token in enumerate(ids) if token is not None}


def _is_byte_level(tokenizer: PreTrainedTokenizerFast) -> bool:
    token = cast(int | None, tokenizer.convert_tokens_to_ids(_BYTE_LEVEL_SPACE))
    if token is None or tokenizer.convert_ids_to_tokens(token) != _BYTE_LEVEL_SPACE:
        return False
    return tokenizer.decode([token], clean_up_tokenization_spaces=False) == " "


@lru_cache(maxsize=1)
def _byte_level_alphabet() -> dict[str, int]:
    """The inverse of GPT-2's `bytes_to_unicode`: letters of byte-level BPE to bytes.

    Printable bytes of Latin-1 stand for themselves, the others for letters from 256 on, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + number): byte for number, byte in enumerate(others)}

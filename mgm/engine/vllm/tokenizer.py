"""Tokenizer for vLLM that splits texts at image markers, as our processor does."""

import copy
from collections.abc import Sequence
from typing import Any

from transformers import BatchEncoding, PreTrainedTokenizerBase
from vllm.tokenizers.hf import CachedHfTokenizer, HfTokenizer

from mgm.data.text.conversation import Segment
from mgm.data.text.encoding import encode
from mgm.data.text.tokenizer import add_image_token, image_token_id_of, leading_ids

LEFT = "left"


class VLLMTokenizer(CachedHfTokenizer):
    """A tokenizer with our processor's leading tokens and its splits at image markers."""

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> HfTokenizer:
        """Load a tokenizer; arguments are vLLM's."""
        return with_our_ids(super().from_pretrained(*args, **kwargs))


def with_our_ids(tokenizer: HfTokenizer) -> HfTokenizer:
    """A copy of a tokenizer that maps image markers to one id and adds leading tokens.

    Compat: the text after a marker is tokenized as a text of its own, as published. vLLM has
    tokenizers add no special tokens to chats, but our templates have no beginning-of-text token.
    """
    add_image_token(tokenizer)

    class Ours(type(tokenizer)):
        def encode(self, text: str, **options: Any) -> list[int]:
            return _truncate(_ids(tokenizer, text), options, self.truncation_side)

        def __call__(self, text: str | Sequence[str], **options: Any) -> BatchEncoding:
            if isinstance(text, str):
                ids = self.encode(text, **options)
                return BatchEncoding({"input_ids": ids, "attention_mask": [1] * len(ids)})
            rows = [self.encode(one, **options) for one in text]
            return BatchEncoding(
                {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]}
            )

        def __reduce__(self) -> Any:
            return with_our_ids, (tokenizer,)

    Ours.__name__ = f"MiniGemini{type(tokenizer).__name__}"
    ours = copy.copy(tokenizer)
    ours.__class__ = Ours
    return ours


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids, _ = encode([Segment(text)], tokenizer, image_token_id_of(tokenizer), 1, False)
    begin = leading_ids(tokenizer)
    return ids if ids[: len(begin)] == begin else [*begin, *ids]


def _truncate(ids: list[int], options: dict[str, Any], side: str) -> list[int]:
    """Truncate ids, if the options say so."""
    max_length = options.get("max_length")
    if not options.get("truncation") or max_length is None or len(ids) <= max_length:
        return ids
    return ids[-max_length:] if side == LEFT else ids[:max_length]

"""Tokenises segments: image token expansion and label masking (`IGNORE_INDEX`).

Token ids and labels are computed from the same segments, so that no alignment is needed.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from mgm.data.text.conversation import Segment
from mgm.data.text.templates import IMAGE_MARKER
from mgm.data.text.tokenizer import encode_chunk, leading_ids
from mgm.model.labels import IGNORE_INDEX


def encode(
    segments: Sequence[Segment],
    tokenizer: PreTrainedTokenizerBase,
    image_token_id: int,
    tokens_per_image: int,
    add_leading_ids: bool = True,
) -> tuple[list[int], list[int]]:
    """Token ids and labels of `segments`.

    The text between two image markers is tokenised as a whole, across segments; a token has a
    label if it starts in a supervised segment.

    Args:
        segments: segments of the text.
        tokenizer: a tokenizer with offset mapping.
        image_token_id: the token id at image positions.
        tokens_per_image: number of image tokens that an image marker is expanded to.
        add_leading_ids: whether to prepend the tokenizer's beginning-of-sequence token.

    Returns:
        Token ids and labels of equal length; labels are the ids of supervised tokens, and
        `IGNORE_INDEX` elsewhere.
    """
    supervised = bytearray()
    for segment in segments:
        supervised += bytes([segment.supervised]) * len(segment.text)
    ids = leading_ids(tokenizer) if add_leading_ids else []
    labels = [IGNORE_INDEX] * len(ids)
    offset = 0  # offset of the chunk in the text
    for index, chunk in enumerate("".join(s.text for s in segments).split(IMAGE_MARKER)):
        if index:
            ids += [image_token_id] * tokens_per_image
            labels += [IGNORE_INDEX] * tokens_per_image
            offset += len(IMAGE_MARKER)
        chunk_ids, starts = encode_chunk(tokenizer, chunk)
        ids += chunk_ids
        labels += [
            token if supervised[offset + start] else IGNORE_INDEX
            for token, start in zip(chunk_ids, starts, strict=True)
        ]
        offset += len(chunk)
    return ids, labels

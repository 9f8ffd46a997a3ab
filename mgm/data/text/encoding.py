"""Segments of a conversation as token ids with labels.

Both come from the same segments, so there is nothing to align afterwards.
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

    Each text between two image markers is tokenised as a whole, across segments: a token is
    supervised when it begins in a supervised segment.

    Args:
        segments: of the text.
        tokenizer: a tokenizer that knows where in the text its tokens begin.
        image_token_id: the id at image positions.
        tokens_per_image: image positions that one image marker becomes.
        add_leading_ids: whether the tokenizer's beginning-of-text token comes first.

    Returns:
        Ids and labels, equally long; labels are the ids of supervised tokens, and -100 elsewhere.
    """
    supervised = bytearray()
    for segment in segments:
        supervised += bytes([segment.supervised]) * len(segment.text)
    ids = leading_ids(tokenizer) if add_leading_ids else []
    labels = [IGNORE_INDEX] * len(ids)
    offset = 0  # of the chunk in the text
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

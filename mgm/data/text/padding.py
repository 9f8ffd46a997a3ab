"""Padding of token id rows to one tensor, and its attention mask."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mgm.errors import MGMError


def pad_rows(
    rows: Sequence[Sequence[int] | Tensor], value: int, side: str = "right", length: int = 0
) -> Tensor:
    """Pad rows of integers with `value` on `side` to one int64 tensor.

    The shape is (rows, longest row), or (rows, `length`) if that is longer.

    Raises:
        MGMError: `side` is neither left nor right.
    """
    check_side(side)
    longest = max(length, *map(len, rows))
    padded = torch.full((len(rows), longest), value, dtype=torch.long)
    for target, row in zip(padded, rows, strict=True):
        start = longest - len(row) if side == "left" else 0
        target[start : start + len(row)] = torch.as_tensor(row, dtype=torch.long)
    return padded


def check_side(side: str) -> None:
    """Raise an MGMError unless the side is "left" or "right"."""
    if side not in ("left", "right"):
        raise MGMError(f"padding_side is {side!r}; choose left or right")


def attention_mask(lengths: Sequence[int], side: str = "right", length: int = 0) -> Tensor:
    """The attention mask of padded rows: 1 at tokens, 0 at padding; of the shape of `pad_rows`.

    It is computed from lengths, since a text may contain the padding token.
    """
    return pad_rows([[1] * count for count in lengths], 0, side, length)

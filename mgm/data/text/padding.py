"""Rows of different lengths as one tensor."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mgm.errors import MGMError


def pad_rows(
    rows: Sequence[Sequence[int] | Tensor], value: int, side: str = "right", length: int = 0
) -> Tensor:
    """Rows of integers as one int64 tensor, filled up with `value` on `side`.

    It is of shape (rows, longest row), or (rows, `length`) where that is more.

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
    """Raise an MGMError unless this is a side to pad on."""
    if side not in ("left", "right"):
        raise MGMError(f"padding_side is {side!r}; choose left or right")


def attention_mask(lengths: Sequence[int], side: str = "right", length: int = 0) -> Tensor:
    """1 where a row of that length stands, 0 where it is padded, shaped as by `pad_rows`.

    It comes from lengths: a text may hold the padding id as a token of its own.
    """
    return pad_rows([[1] * count for count in lengths], 0, side, length)

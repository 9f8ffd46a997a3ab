"""What the tokens see of rows whose keys and values end at different columns."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mgm.errors import MGMError
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.model.ops.attention import attending_by, attention_of

FULL, SLIDING = "full_attention", "sliding_attention"
MASKED = ("sdpa", "eager")  # attention that takes a mask of any kind


@dataclass(frozen=True)
class Branches:
    """Tokens of several prompts in one row, whose beginning they share.

    Attributes:
        numbers: (rows, tokens) of the prompt that a token is of; 0: of all.
        positions: (rows, tokens) in that prompt.
    """

    numbers: Tensor
    positions: Tensor


class AttentionMasks:
    """Makes masks for the kinds of attention that a language model has.

    Args:
        model: with the language model.

    Raises:
        MGMError: the language model keeps more of what it read than keys and values.
    """

    def __init__(self, model: MGMForConditionalGeneration) -> None:
        self._language_model = model.language_model
        text = model.config.text_config
        kinds = set(getattr(text, "layer_types", None) or [FULL])
        if kinds - {FULL, SLIDING}:
            raise MGMError(
                f"the language model ({text.model_type}) has layers of kind "
                f"{', '.join(sorted(kinds - {FULL, SLIDING}))}, which the engine cannot run; "
                "use model.generate"
            )
        window = getattr(text, "sliding_window", None)
        self._window = window if getattr(text, "use_sliding_window", True) else None
        self._mixed = getattr(text, "layer_types", None) is not None and SLIDING in kinds

    def of(self, places: Tensor, width: int, branches: Branches | None = None) -> Any:
        """What each token sees: (rows, 1, tokens, width), by kind of layer if there are two.

        Args:
            places: (rows, tokens) columns that the tokens are written to.
            width: columns that are looked at.
            branches: of the tokens; None: each row is of one prompt.
        """
        columns = torch.arange(width, device=places.device)
        behind = places.unsqueeze(-1) - columns  # how far each column is back
        seen = behind >= 0
        if branches is not None:
            numbers = _at_columns(torch.zeros_like(columns), places, branches.numbers)
            seen &= (numbers == 0) | (numbers == branches.numbers.unsqueeze(-1))
            positions = _at_columns(columns, places, branches.positions)
            behind = branches.positions.unsqueeze(-1) - positions
        full = self._mask(seen)
        if self._window is None:
            return full
        sliding = self._mask(seen & (behind < self._window))
        return {FULL: full, SLIDING: sliding} if self._mixed else sliding

    def _mask(self, seen: Tensor) -> Tensor:
        seen = seen[:, None]
        if attention_of(self._language_model.config) != "eager":
            return seen
        dtype = self._language_model.dtype
        zero = torch.zeros((), dtype=dtype, device=seen.device)
        return torch.where(seen, zero, torch.finfo(dtype).min)

    @contextmanager
    def in_use(self) -> Generator[None]:
        """Attention that takes a mask for each row, which flash attention does not."""
        config = self._language_model.config
        if attention_of(config) in MASKED:
            yield
            return
        with attending_by(config, "sdpa"):
            yield


def _at_columns(before: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """(rows, 1, width) what columns hold after the step, of (width) that they held before."""
    return before.repeat(len(places), 1).scatter(1, places, values).unsqueeze(1)

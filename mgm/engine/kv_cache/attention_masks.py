"""Attention masks for a batch whose rows have KV caches of different lengths."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mgm.errors import MGMError
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.model.ops.attention import attention_implementation, override_attention

FULL, SLIDING = "full_attention", "sliding_attention"
MASKED_IMPLEMENTATIONS = ("sdpa", "eager")  # attention implementations that take any mask


@dataclass(frozen=True)
class Branches:
    """Tokens of prompts that share a prefix within one row, as in tree attention.

    Attributes:
        indices: (rows, tokens) of the prompt that a token belongs to, from 1; 0: the prefix.
        positions: (rows, tokens) position of a token in its prompt.
    """

    indices: Tensor
    positions: Tensor


class AttentionMasks:
    """Builds the masks of a language model: causal, sliding window, or both.

    Args:
        model: model with the language model.

    Raises:
        MGMError: the language model has other state than a KV cache.
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

    def build(self, columns: Tensor, width: int, branches: Branches | None = None) -> Any:
        """Build the mask (rows, 1, tokens, width) of a step, by layer type if there are two.

        Args:
            columns: (rows, tokens) columns of the KV cache that the tokens are written to.
            width: columns that the step attends to.
            branches: branches of the tokens; None: each row has one prompt.
        """
        all_columns = torch.arange(width, device=columns.device)
        distance = columns.unsqueeze(-1) - all_columns
        visible = distance >= 0
        if branches is not None:
            indices = _at_columns(torch.zeros_like(all_columns), columns, branches.indices)
            visible &= (indices == 0) | (indices == branches.indices.unsqueeze(-1))
            positions = _at_columns(all_columns, columns, branches.positions)
            distance = branches.positions.unsqueeze(-1) - positions
        full = self._as_mask(visible)
        if self._window is None:
            return full
        sliding = self._as_mask(visible & (distance < self._window))
        return {FULL: full, SLIDING: sliding} if self._mixed else sliding

    def _as_mask(self, visible: Tensor) -> Tensor:
        """A boolean mask in the attention implementation's format: boolean or additive."""
        visible = visible[:, None]
        if attention_implementation(self._language_model.config) != "eager":
            return visible
        dtype = self._language_model.dtype
        zero = torch.zeros((), dtype=dtype, device=visible.device)
        return torch.where(visible, zero, torch.finfo(dtype).min)

    @contextmanager
    def masked_attention(self) -> Generator[None]:
        """Use sdpa instead of implementations without arbitrary masks, such as flash attention."""
        config = self._language_model.config
        if attention_implementation(config) in MASKED_IMPLEMENTATIONS:
            yield
            return
        with override_attention(config, "sdpa"):
            yield


def _at_columns(before: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    """Values of all columns after a step, (rows, 1, width), from those before it, (width)."""
    return before.repeat(len(columns), 1).scatter(1, columns, values).unsqueeze(1)

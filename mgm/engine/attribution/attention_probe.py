"""How much of its attention an answer gave to every position that it could see."""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mgm.errors import MGMError
from mgm.model.ops.attention import attention_of

WATCHED = "mgm_watched"  # its name among transformers' implementations
_watch: ContextVar["_Watch | None"] = ContextVar("watch", default=None)


class _Watch:
    """Sums attention over the layers of a language model.

    Args:
        rows: how many of the last positions are watched.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.layers = 0
        self.total: Tensor | None = None

    def add(self, weights: Tensor) -> None:
        """The weights (1, heads, rows, length) of one layer."""
        mean = weights[0].mean((0, 1))
        self.total = mean if self.total is None else self.total + mean
        self.layers += 1


def _watched_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """torch's own attention, and the weights of the rows that are watched; no others are made."""
    watch = _watch.get()
    if watch is None:
        raise RuntimeError(f"{WATCHED} is used outside of a watch")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    groups = query.shape[1] // key.shape[1]
    # torch's own knows no cap: there the weights of all rows are needed.
    rows = watch.rows if softcap is None else query.shape[2]
    scores = query[:, :, -rows:].float() @ repeat_kv(key, groups).float().transpose(-1, -2) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    weights = _masked(scores, attention_mask).softmax(-1)
    watch.add(weights[:, :, -watch.rows :])
    if softcap is not None:
        mixed = weights.to(value.dtype) @ repeat_kv(value, groups)
        return mixed.transpose(1, 2).contiguous(), None
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, **kwargs
    )


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Scores (1, heads, rows, length) of the last rows, without what these may not see."""
    rows, length = scores.shape[-2:]
    if mask is None:
        places = torch.arange(length, device=scores.device)
        return scores.masked_fill(places > places[-rows:, None], -torch.inf)
    mask = mask[:, :, -rows:, :length]
    return scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask


@contextmanager
def _watching(model: PreTrainedModel, watch: _Watch) -> Generator[None]:
    """Have a language model attend under a watch meanwhile."""
    ALL_ATTENTION_FUNCTIONS.register(WATCHED, _watched_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(WATCHED, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    before, token = attention_of(model.config), _watch.set(watch)
    model.set_attn_implementation(WATCHED)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
        _watch.reset(token)


@torch.inference_mode()
def answer_attention(model: PreTrainedModel, embeddings: Tensor, rows: int) -> Tensor:
    """The mean attention of the last positions, over layers, heads and these positions.

    Args:
        model: a causal language model.
        embeddings: (1, length, width), of prompt and answer.
        rows: positions that are watched: those that wrote the answer.

    Returns:
        (length), float32; the numbers add up to one.

    Raises:
        MGMError: the model does not attend by transformers' interface.
    """
    watch = _Watch(rows)
    with _watching(model, watch):
        model(inputs_embeds=embeddings, use_cache=False, logits_to_keep=1)
    if watch.total is None:
        raise MGMError(f"{type(model).__name__} does not attend in a way that can be watched")
    return watch.total / watch.layers

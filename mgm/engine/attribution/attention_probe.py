"""Attention probe: the mean attention of an answer's tokens to all positions."""

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
from mgm.model.ops.attention import attention_implementation

PROBED_ATTENTION = "mgm_probed"  # registered in transformers' attention implementations
_probe: ContextVar["_Probe | None"] = ContextVar("probe", default=None)


class _Probe:
    """Sums attention weights over the layers of a language model.

    Args:
        num_queries: how many of the last positions are probed.
    """

    def __init__(self, num_queries: int) -> None:
        self.num_queries = num_queries
        self.layers = 0
        self.total: Tensor | None = None

    def add(self, weights: Tensor) -> None:
        """Add the weights (1, heads, queries, length) of one layer."""
        mean = weights[0].mean((0, 1))
        self.total = mean if self.total is None else self.total + mean
        self.layers += 1


def _probed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """sdpa attention, which also computes the weights of the probed queries for the probe."""
    probe = _probe.get()
    if probe is None:
        raise RuntimeError(f"{PROBED_ATTENTION} is used outside of a probe")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    groups = query.shape[1] // key.shape[1]
    # sdpa has no soft cap: there the weights of all queries are needed.
    num_queries = probe.num_queries if softcap is None else query.shape[2]
    scores = (
        query[:, :, -num_queries:].float()
        @ repeat_kv(key, groups).float().transpose(-1, -2)
        * scale
    )
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    weights = _masked(scores, attention_mask).softmax(-1)
    probe.add(weights[:, :, -probe.num_queries :])
    if softcap is not None:
        output = weights.to(value.dtype) @ repeat_kv(value, groups)
        return output.transpose(1, 2).contiguous(), None
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, **kwargs
    )


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Scores (1, heads, queries, length) of the last queries, masked."""
    queries, length = scores.shape[-2:]
    if mask is None:
        positions = torch.arange(length, device=scores.device)
        return scores.masked_fill(positions > positions[-queries:, None], -torch.inf)
    mask = mask[:, :, -queries:, :length]
    return scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask


@contextmanager
def _probing(model: PreTrainedModel, probe: _Probe) -> Generator[None]:
    """Use the probed attention in a language model within the block."""
    ALL_ATTENTION_FUNCTIONS.register(PROBED_ATTENTION, _probed_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(PROBED_ATTENTION, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    before, token = attention_implementation(model.config), _probe.set(probe)
    model.set_attn_implementation(PROBED_ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
        _probe.reset(token)


@torch.inference_mode()
def probe_attention(model: PreTrainedModel, embeddings: Tensor, num_queries: int) -> Tensor:
    """Compute the mean attention of the last positions, over layers, heads and these positions.

    Args:
        model: a causal language model.
        embeddings: (1, length, width) of prompt and answer.
        num_queries: positions that are probed: those that predict the answer's tokens.

    Returns:
        (length) float32, which sum to 1.

    Raises:
        MGMError: the model does not use transformers' attention interface.
    """
    probe = _Probe(num_queries)
    with _probing(model, probe):
        model(inputs_embeds=embeddings, use_cache=False, logits_to_keep=1)
    if probe.total is None:
        raise MGMError(f"{type(model).__name__} does not use transformers' attention interface")
    return probe.total / probe.layers

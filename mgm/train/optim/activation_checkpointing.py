"""What a layer keeps for the backward pass, where it does not keep all: products of matrices.

A matrix product takes most of a layer's time and its output little of the memory; norms,
activations and products of elements take little time and most of the memory. So the outputs of
products and of attention stay, and the rest is computed again. What a layer that is checkpointed as
a whole computes twice is then almost nothing.
"""

from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from transformers import PreTrainedModel

aten = torch.ops.aten
_SAVED_OPS = {
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.convolution.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
}


def checkpoint_policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Whether the output of an operation stays; asked by `torch.utils.checkpoint`."""
    if operation in _SAVED_OPS:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def selective_checkpoint_kwargs() -> dict[str, Any]:
    """Options of `torch.utils.checkpoint.checkpoint`."""
    contexts = partial(create_selective_checkpoint_contexts, checkpoint_policy)
    return {"use_reentrant": False, "context_fn": contexts}


def enable(model: PreTrainedModel, options: dict[str, Any]) -> None:
    """Have the layers of a model computed again in the backward pass, with these options."""
    # transformers before 5.23 knows the older name alone; later ones warn about it.
    turn_on = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    turn_on(options)

"""Selective activation (gradient) checkpointing: saves matmuls, recomputes elementwise ops.

Matrix products take most of a layer's time and their outputs little of its memory; norms,
activations and elementwise products take little time and most of the memory.
"""

from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from transformers import (
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

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
    """Whether `torch.utils.checkpoint` saves or recomputes the output of an operation."""
    if operation in _SAVED_OPS:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def selective_checkpoint_kwargs() -> dict[str, Any]:
    """Keyword arguments for `torch.utils.checkpoint.checkpoint`."""
    contexts = partial(create_selective_checkpoint_contexts, checkpoint_policy)
    return {"use_reentrant": False, "context_fn": contexts}


class SelectiveCheckpointing(TrainerCallback):
    """Replaces transformers' checkpointing of whole layers by selective checkpointing."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Enable it: the Trainer has enabled its own by now."""
        enable_activation_checkpointing(kwargs["model"], selective_checkpoint_kwargs())


def enable_activation_checkpointing(model: PreTrainedModel, options: dict[str, Any]) -> None:
    """Checkpoint the layers of a model, with options of `torch.utils.checkpoint`."""
    # transformers before 5.23 has only the older name; later versions warn about it.
    method = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    method(options)

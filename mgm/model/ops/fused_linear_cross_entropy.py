"""Fused linear layer and cross-entropy, in chunks of rows; never holds all logits."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LOGITS_BYTES = 256 * 2**20  # bytes of float32 logits in memory at a time


class LinearCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of `hidden @ weight.T + bias`, with gradients from the forward pass.

    Gradients are computed chunk by chunk while the chunk's logits are in memory, so that backward
    only scales them instead of recomputing the logits.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
    ) -> Tensor:
        """Sum loss and gradients over chunks of rows."""
        needs_hidden, needs_weight, needs_bias, _ = ctx.needs_input_grad
        dtype = hidden.dtype
        if torch.is_autocast_enabled(hidden.device.type):
            dtype = torch.get_autocast_dtype(hidden.device.type)
        matrix, rows = weight.to(dtype), max(1, LOGITS_BYTES // (4 * len(weight)))
        bias_term = None if bias is None else bias.to(dtype)
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        # float32, since rounding errors would add up over the chunks.
        sums = torch.float64 if dtype == torch.float64 else torch.float32
        grad_weight = None
        grad_bias = torch.zeros_like(bias, dtype=sums) if bias is not None and needs_bias else None
        total = hidden.new_zeros((), dtype=sums)
        for start in range(0, max(len(hidden), 1), rows):  # without rows, gradients of zero
            chunk = slice(start, start + rows)
            inputs, target = hidden[chunk].to(dtype), targets[chunk].unsqueeze(-1)
            logits = F.linear(inputs, matrix, bias_term).to(sums)
            target_logits = logits.gather(-1, target)
            norm = logits.logsumexp(-1, keepdim=True)
            total += (norm - target_logits).sum()
            # In place: logits become their gradient, softmax minus the one-hot target.
            grad_logits = logits.sub_(norm).exp_()
            grad_logits.scatter_add_(-1, target, torch.full_like(target_logits, -1))
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0)
            grad_logits = grad_logits.to(dtype)
            if grad_hidden is not None:
                grad_hidden[chunk] = grad_logits @ matrix
            if needs_weight:
                grad_weight = _with_product(grad_weight, grad_logits, inputs, sums)
        ctx.save_for_backward(
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None or bias is None else grad_bias.to(bias.dtype),
        )
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients that the forward pass computed."""
        (grad_loss,) = gradients
        # In place, since the weight's gradient is large, unless the graph is retained.
        scale = torch.mul if _graph_is_kept() else Tensor.mul_
        saved = ctx.saved_tensors
        return (*(None if g is None else scale(g, grad_loss.to(g.dtype)) for g in saved), None)


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
) -> Tensor:
    """Cross-entropy of a linear head, summed over rows, in float32.

    All logits of 2,048 positions and a vocabulary of 256,000 would take 2 GB, and their gradient
    the same; here at most `LOGITS_BYTES` are in memory.

    Args:
        hidden: (rows, width).
        weight: (vocabulary, width).
        bias: (vocabulary), or None.
        targets: (rows), each a row of `weight`.

    Returns:
        A number, of dtype float32 (float64 for inputs of that). It can be differentiated once.
    """
    return LinearCrossEntropy.apply(hidden, weight, bias, targets)


def _graph_is_kept() -> bool:
    """Whether the running backward pass retains the graph."""
    # Only torch's internals know; without them assume so, which is correct and takes more memory.
    autograd = getattr(torch._C, "_autograd", None)
    keeps_graph = getattr(autograd, "_get_current_graph_task_keep_graph", None)
    return keeps_graph is None or keeps_graph()


def _with_product(
    total: Tensor | None, grad_logits: Tensor, inputs: Tensor, dtype: torch.dtype
) -> Tensor:
    """Add `grad_logits.T @ inputs` to the total, in `dtype`."""
    if total is None:
        return (grad_logits.T @ inputs).to(dtype)
    if dtype == grad_logits.dtype:
        return total.addmm_(grad_logits.T, inputs)
    return total.add_(grad_logits.T @ inputs)

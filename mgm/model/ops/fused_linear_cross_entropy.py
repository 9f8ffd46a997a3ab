"""Fused linear layer and cross-entropy, in chunks of rows; never holds all logits."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LOGITS_BYTES = 256 * 2**20  # bytes of float32 logits in memory at a time


class LinearCrossEntropy(torch.autograd.Function):
    """The summed cross-entropy of `hidden @ weight.T + bias`, and its gradients.

    The gradients are made together with the loss, chunk by chunk, while the chunk's logits are in
    memory, so that the backward pass only scales them instead of recomputing the logits.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
    ) -> Tensor:
        """Sum the cross-entropy over chunks of rows, and the gradients with it."""
        wants_hidden, wants_weight, wants_bias, _ = ctx.needs_input_grad
        dtype = hidden.dtype
        if torch.is_autocast_enabled(hidden.device.type):
            dtype = torch.get_autocast_dtype(hidden.device.type)
        matrix, rows = weight.to(dtype), max(1, LOGITS_BYTES // (4 * len(weight)))
        shift = None if bias is None else bias.to(dtype)
        of_hidden = torch.empty_like(hidden) if wants_hidden else None
        # float32, since rounding would add up over the chunks.
        sums = torch.float64 if dtype == torch.float64 else torch.float32
        of_weight = None
        of_bias = torch.zeros_like(bias, dtype=sums) if bias is not None and wants_bias else None
        total = hidden.new_zeros((), dtype=sums)
        for start in range(0, max(len(hidden), 1), rows):  # without a row, gradients of zero
            chunk = slice(start, start + rows)
            inputs, wanted = hidden[chunk].to(dtype), targets[chunk].unsqueeze(-1)
            logits = F.linear(inputs, matrix, shift).to(sums)
            chosen = logits.gather(-1, wanted)
            norm = logits.logsumexp(-1, keepdim=True)
            total += (norm - chosen).sum()
            # In place: what were logits become their gradient, probabilities less the target.
            slope = logits.sub_(norm).exp_()
            slope.scatter_add_(-1, wanted, torch.full_like(chosen, -1))
            if of_bias is not None:
                of_bias += slope.sum(0)
            slope = slope.to(dtype)
            if of_hidden is not None:
                of_hidden[chunk] = slope @ matrix
            if wants_weight:
                of_weight = _with_product(of_weight, slope, inputs, sums)
        ctx.save_for_backward(
            of_hidden,
            None if of_weight is None else of_weight.to(weight.dtype),
            None if of_bias is None or bias is None else of_bias.to(bias.dtype),
        )
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients that came with the loss."""
        (of_loss,) = gradients
        # In place, since that of the weight is large; but not if they are needed once more.
        scale = torch.mul if _graph_is_kept() else Tensor.mul_
        made = ctx.saved_tensors
        return (*(None if g is None else scale(g, of_loss.to(g.dtype)) for g in made), None)


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
) -> Tensor:
    """The cross-entropy of a linear head, summed over rows, in float32.

    Equal to that of the whole logits, which for 2,048 positions and a vocabulary of 256,000 would
    take 2 GB and the same again for their gradient; here at most `LOGITS_BYTES`.

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
    """Whether the backward pass that is running was asked to retain the graph."""
    # Only torch's internals tell; without them it counts as kept, which is right and takes memory.
    autograd = getattr(torch._C, "_autograd", None)
    tells = getattr(autograd, "_get_current_graph_task_keep_graph", None)
    return tells is None or tells()


def _with_product(
    total: Tensor | None, slope: Tensor, inputs: Tensor, dtype: torch.dtype
) -> Tensor:
    """`slope.T @ inputs`, added to what there is, in `dtype`."""
    if total is None:
        return (slope.T @ inputs).to(dtype)
    if dtype == slope.dtype:
        return total.addmm_(slope.T, inputs)
    return total.add_(slope.T @ inputs)

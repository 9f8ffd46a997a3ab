"""LM head and cross-entropy with 22 % of the positions supervised, forward and backward.

    python -m benchmarks.loss [--only 256k ...] [--device cuda --dtype bfloat16]

The published implementation computes float32 logits of all positions; mgm computes the loss of
`mgm.model.ops.causal_lm_loss`, as in a training step with `num_items_in_batch`. The limit is the
roofline: the larger of the operations of supervised rows at the measured FLOP/s, and inputs,
weights and their gradients, each once, at the measured bandwidth.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import CausalLMOutputWithPast

from benchmarks.harness import (
    OURS,
    PUBLISHED,
    Case,
    Settings,
    is_selected,
    relative_difference,
    report,
    settings,
)
from mgm.model.labels import IGNORE_INDEX
from mgm.model.ops.causal_lm_loss import CausalLMLoss

SUPERVISED = 0.22  # of the positions, as in the published second stage
# vocabulary, width, positions: LLaMA 7B and Gemma 2B
SIZES = {"32k vocabulary": (32_000, 4096, 2048), "256k vocabulary": (256_000, 2048, 1024)}
SMALL = {"32k vocabulary": (320, 32, 64), "256k vocabulary": (2560, 16, 64)}


class Head(nn.Module):
    """A language model without layers: only an LM head, of the size of a real one."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.lm_head = nn.Linear(width, vocabulary, bias=False)

    def get_output_embeddings(self) -> nn.Linear:
        """The LM head, as in transformers."""
        return self.lm_head

    def forward(self, hidden: Tensor, logits_to_keep: Tensor) -> CausalLMOutputWithPast:
        """(batch, length, width) -> logits of the columns in `logits_to_keep`."""
        return CausalLMOutputWithPast(logits=self.lm_head(hidden[:, logits_to_keep]))


def cases(chosen: Settings) -> Iterator[Case]:
    """Generate the selected cases."""
    for name, (vocabulary, width, length) in (SMALL if chosen.small else SIZES).items():
        if is_selected(name, chosen):
            yield case(name, vocabulary, width, length, chosen)


def case(name: str, vocabulary: int, width: int, length: int, chosen: Settings) -> Case:
    """Both implementations on the same hidden states."""
    torch.manual_seed(0)
    model = Head(vocabulary, width).to(chosen.device, chosen.dtype)
    hidden = torch.randn(chosen.images, length, width, device=chosen.device).to(chosen.dtype)
    hidden.requires_grad_()
    labels = torch.randint(vocabulary, hidden.shape[:2], device=chosen.device)
    labels[:, : int(length * (1 - SUPERVISED))] = (
        IGNORE_INDEX  # image and question first, then answers
    )
    count = (labels[:, 1:] != IGNORE_INDEX).sum()
    supervised = CausalLMLoss()

    def gradients(loss: Tensor) -> list[Tensor]:
        inputs = [hidden, model.lm_head.weight]
        loss.backward()
        results = [loss.detach(), *(entry.grad for entry in inputs if entry.grad is not None)]
        for entry in inputs:
            entry.grad = None
        return results

    def ours() -> list[Tensor]:
        output = supervised(model, labels, count, hidden=hidden)  # ty: ignore[invalid-argument-type]
        assert output.loss is not None
        return gradients(output.loss)

    def published() -> list[Tensor]:
        logits = model.lm_head(hidden).float()
        shifted, targets = logits[:, :-1].contiguous(), labels[:, 1:].contiguous()
        return gradients(
            F.cross_entropy(
                shifted.view(-1, vocabulary), targets.view(-1), ignore_index=IGNORE_INDEX
            )
        )

    difference = relative_difference(ours(), published())
    moved = 2 * (hidden.nbytes + model.lm_head.weight.nbytes)
    products = 3 * 2 * int(count) * vocabulary * width  # logits and two gradients
    return Case(name, {OURS: ours, PUBLISHED: published}, difference, moved, products)


if __name__ == "__main__":
    chosen = settings(__doc__ or "")
    report("Head and cross-entropy, 22 % supervised", cases(chosen), chosen)

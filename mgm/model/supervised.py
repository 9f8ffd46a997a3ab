"""Training looks only at positions that are supervised: no logits are made of the others."""

from typing import Any

from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.modeling_outputs import CausalLMOutputWithPast

IGNORED = -100


def supervised_output(
    language_model: PreTrainedModel,
    labels: Tensor,
    num_items_in_batch: Tensor | int | None = None,
    **inputs: Any,
) -> CausalLMOutputWithPast:
    """The loss of a causal language model, and logits at the columns where any sample has a label.

    Image and prompt positions are most of a sample and have no labels; the head over a large
    vocabulary costs more than a layer. The loss is exactly that over all positions.

    Args:
        language_model: any that takes columns as `logits_to_keep`.
        labels: (batch, length), -100 where nothing is to be learnt.
        num_items_in_batch: labels of the whole batch over all devices and accumulation steps, which
            the sum is divided by; None: the mean over this batch.
        **inputs: for the language model.
    """
    targets = F.pad(labels[:, 1:], (0, 1), value=IGNORED)  # what each position has to predict
    columns = (targets != IGNORED).any(0).nonzero().squeeze(-1)
    if len(columns) == 0:
        columns = columns.new_zeros(1)
        num_items_in_batch = 1  # a batch without labels teaches nothing: 0, and not 0 / 0
    output = language_model(logits_to_keep=columns, **inputs)
    output.loss = ForCausalLMLoss(
        output.logits,
        labels=None,
        vocab_size=output.logits.shape[-1],
        num_items_in_batch=num_items_in_batch,  # ty: ignore[invalid-argument-type]
        shift_labels=targets[:, columns].contiguous(),
    )
    return output

"""Causal-LM loss computed at labelled positions only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.modeling_outputs import CausalLMOutputWithPast

from mgm.model.labels import IGNORE_INDEX
from mgm.model.ops.fused_linear_cross_entropy import linear_cross_entropy


@dataclass
class CausalLMLossOutput(CausalLMOutputWithPast):
    """What a training step gives.

    Attributes:
        group_losses: (groups, 3), for each group of labels that was there its number, the sum of
            its losses, and how many; nothing goes back through it.
    """

    group_losses: Tensor | None = None


class CausalLMLoss:
    """The loss of a causal language model, from the positions that have a label.

    Image and prompt positions are most of a sample and have no labels; the head over a large
    vocabulary costs more than a layer. The loss is exactly that over all positions.

    A head that is a plain linear layer never makes all logits of the others either: its input is
    taken as it enters, and goes through `linear_cross_entropy`. What is more than a linear layer
    (logits that are capped or scaled after it, a LoRA in it, weights that are gathered for its call
    only) is called as it is, at the columns where any sample has a label.
    """

    def __init__(self) -> None:
        self.linear_cross_entropy = linear_cross_entropy  # or another that computes the same
        self._plain: bool | None = None  # not known before the first call

    def __call__(
        self,
        language_model: PreTrainedModel,
        labels: Tensor,
        num_items_in_batch: Tensor | int | None = None,
        loss_group_ids: Tensor | None = None,
        **inputs: Any,
    ) -> CausalLMOutputWithPast:
        """Run the language model and add the loss to what it returns.

        Args:
            language_model: any that takes columns as `logits_to_keep`.
            labels: (batch, length), -100 where nothing is to be learnt.
            num_items_in_batch: labels of the whole batch over all devices and accumulation steps,
                which the sum is divided by; None: the mean over this batch.
            loss_group_ids: (batch, length), the group of each label, such as the number of its data
                source: the output then has the loss of each group; None: there are no groups.
            **inputs: for the language model.

        Returns:
            Its output with `loss`, and with `logits` only where the head is no plain linear layer;
            with `loss_group_ids` a `CausalLMLossOutput`.
        """
        targets = F.pad(
            labels[:, 1:], (0, 1), value=IGNORE_INDEX
        )  # what each position has to predict
        columns = (targets != IGNORE_INDEX).any(0).nonzero().squeeze(-1)
        if len(columns) == 0:
            columns = columns.new_zeros(1)
            num_items_in_batch = 1  # a batch without labels teaches nothing: 0, and not 0 / 0
        targets = targets[:, columns].contiguous()
        groups = None
        if loss_group_ids is not None:
            groups = F.pad(loss_group_ids[:, 1:], (0, 1))[:, columns]
        inputs |= {"logits_to_keep": columns}
        head = language_model.get_output_embeddings()
        if isinstance(head, nn.Linear) and self._plain is not False and _holds_weights(head):
            output, entered, left = _with_head_watched(language_model, head, inputs)
            if self._plain is None and left.any():  # zeros would show nothing
                logits = cast(Tensor, output.logits)
                kept = entered.shape[1] == len(columns)
                self._plain = kept and torch.equal(left.to(logits), logits)
            if self._plain:
                output = _without_logits(output)
                seen = targets != IGNORE_INDEX
                total, by_group = self._total(head, entered[seen], targets[seen], groups, seen)
                count = torch.as_tensor(
                    seen.sum() if num_items_in_batch is None else num_items_in_batch
                )
                output.loss = total / count.to(total.device)
                return output if by_group is None else _with_groups(output, by_group)
        output = language_model(**inputs)
        output.loss = ForCausalLMLoss(
            output.logits,
            labels=None,
            vocab_size=output.logits.shape[-1],
            num_items_in_batch=num_items_in_batch,  # ty: ignore[invalid-argument-type]
            shift_labels=targets,
        )
        if groups is None:
            return output
        losses = F.cross_entropy(
            cast(Tensor, output.logits).detach().float().flatten(0, 1),
            targets.flatten(),
            reduction="none",
            ignore_index=IGNORE_INDEX,
        ).view_as(targets)
        seen = targets != IGNORE_INDEX
        rows = [
            torch.stack(
                [group, losses[(groups == group) & seen].sum(), (groups == group)[seen].sum()]
            )
            for group in groups[seen].unique()
        ]
        return _with_groups(output, torch.stack(rows) if rows else losses.new_zeros(0, 3))

    def _total(
        self,
        head: nn.Linear,
        hidden: Tensor,
        targets: Tensor,
        groups: Tensor | None,
        seen: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        """The summed loss of supervised rows, and that of each group of them."""

        def loss(rows: Tensor | slice) -> Tensor:
            return self.linear_cross_entropy(hidden[rows], head.weight, head.bias, targets[rows])

        if groups is None:
            return loss(slice(None)), None
        of_row = groups[seen]
        parts = [(group, of_row == group) for group in of_row.unique()]
        sums = [loss(rows) for _, rows in parts] or [loss(slice(None))]
        rows = [(group, part, of.sum()) for (group, of), part in zip(parts, sums, strict=False)]
        return torch.stack(sums).sum(), _table(rows, sums[0])


def _table(rows: Sequence[tuple[Tensor, ...]], like: Tensor) -> Tensor:
    """Rows of numbers in one dtype, out of the graph."""
    numbers = [torch.stack([number.detach().to(like) for number in row]) for row in rows]
    return torch.stack(numbers) if numbers else like.new_zeros(0, 3)


def _without_logits(output: CausalLMOutputWithPast) -> CausalLMOutputWithPast:
    """A copy without the first column's logits; setting the attribute to None keeps the item."""
    return type(output)(**{name: value for name, value in output.items() if name != "logits"})


def _with_groups(output: CausalLMOutputWithPast, by_group: Tensor) -> CausalLMLossOutput:
    return CausalLMLossOutput(**output, group_losses=by_group)


def _holds_weights(head: nn.Linear) -> bool:
    """Whether the head's weights are whole outside of its call, not sharded."""
    if type(head) is not nn.Linear or head.weight.is_meta or torch.compiler.is_compiling():
        return False
    # DeepSpeed's ZeRO-3 marks parameters that it gathers for a call.
    return type(head.weight.data) is Tensor and not hasattr(head.weight, "ds_id")


def _with_head_watched(
    language_model: PreTrainedModel, head: nn.Linear, inputs: dict[str, Any]
) -> tuple[CausalLMOutputWithPast, Tensor, Tensor]:
    """Run the model, its head for the first column alone.

    Returns:
        The output, what came to the head (batch, columns, width), and what it made of the first
        column (batch, 1, vocabulary), which is the output's logits unless they are changed later.
    """
    entered: list[Tensor] = []
    left: list[Tensor] = []

    def enter(module: nn.Module, arguments: tuple[Tensor, ...]) -> Tensor:
        entered.append(arguments[0])
        return arguments[0][:, :1].detach()

    def leave(module: nn.Module, arguments: tuple[Tensor, ...], made: Tensor) -> None:
        left.append(made.detach().clone())

    handles = (head.register_forward_pre_hook(enter), head.register_forward_hook(leave))
    try:
        output = language_model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return output, entered[0], left[0]

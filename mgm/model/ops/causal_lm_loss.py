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
    """Output of a training step, with the loss of each group of labels.

    Attributes:
        group_losses: (groups, 3), for each group in the batch: its number, the sum of its losses,
            and how many labels it has; detached from the graph.
    """

    group_losses: Tensor | None = None


class CausalLMLoss:
    """Cross-entropy of a causal language model, computed at the positions that have a label.

    Image and prompt positions are most of a sample and have no labels; the head over a large
    vocabulary costs more than a layer. The loss is exactly that over all positions.

    Where the head is a plain linear layer, its input at labelled positions goes through the fused
    `linear_cross_entropy`, which never holds all logits. Any other head (logits that are capped or
    scaled after it, a LoRA in it, weights that are gathered for its call only) is called unchanged,
    at the columns where any sample has a label.
    """

    def __init__(self) -> None:
        self.linear_cross_entropy = linear_cross_entropy  # liger-kernel's replaces it
        self._head_is_plain: bool | None = None  # None: before the first call

    def __call__(
        self,
        language_model: PreTrainedModel,
        labels: Tensor,
        num_items_in_batch: Tensor | int | None = None,
        loss_group_ids: Tensor | None = None,
        **inputs: Any,
    ) -> CausalLMOutputWithPast:
        """Run the language model and add the loss to its output.

        Args:
            language_model: any whose `logits_to_keep` takes indices of columns.
            labels: (batch, length), -100 where there is no loss.
            num_items_in_batch: labels of the whole batch over all devices and accumulation steps,
                which the sum is divided by; None: the mean over this batch.
            loss_group_ids: (batch, length), the group of each label, such as the number of its data
                source: the output then has the loss of each group; None: there are no groups.
            **inputs: inputs of the language model.

        Returns:
            Its output with `loss`, and with `logits` only where the head is no plain linear layer;
            with `loss_group_ids` a `CausalLMLossOutput`.
        """
        targets = _Targets.of(labels, loss_group_ids)
        if targets.is_empty:
            num_items_in_batch = 1  # the loss is then 0, and not 0 / 0
        inputs |= {"logits_to_keep": targets.columns}
        head = language_model.get_output_embeddings()
        if isinstance(head, nn.Linear) and self._head_is_plain is not False and _is_whole(head):
            output, hidden, first_logits = _run_capturing_head(language_model, head, inputs)
            if self._head_is_plain is None and first_logits.any():  # zeros would be equal anyway
                logits = cast(Tensor, output.logits)
                same = torch.equal(first_logits.to(logits), logits)
                self._head_is_plain = same and hidden.shape[1] == len(targets.columns)
            if self._head_is_plain:
                return self._fused_loss(output, head, hidden, targets, num_items_in_batch)
        return _loss_of_logits(language_model(**inputs), targets, num_items_in_batch)

    def _fused_loss(
        self,
        output: CausalLMOutputWithPast,
        head: nn.Linear,
        hidden: Tensor,
        targets: "_Targets",
        num_items_in_batch: Tensor | int | None,
    ) -> CausalLMOutputWithPast:
        """Set the loss from the head's input (batch, columns, width), without logits."""
        mask = targets.mask
        hidden, tokens = hidden[mask], targets.tokens[mask]

        def loss_of(rows: Tensor | slice) -> Tensor:
            return self.linear_cross_entropy(hidden[rows], head.weight, head.bias, tokens[rows])

        table = None
        if targets.groups is None:
            total = loss_of(slice(None))
        else:
            group_ids = targets.groups[mask]
            groups = group_ids.unique()
            members = [group_ids == group for group in groups]
            losses = [loss_of(rows) for rows in members]
            total = torch.stack(losses or [loss_of(slice(None))]).sum()
            counts = [rows.sum() for rows in members]
            table = _table(list(zip(groups, losses, counts, strict=True)), total)
        # A copy without the logits of the first column: setting them to None keeps the item.
        output = type(output)(**{name: value for name, value in output.items() if name != "logits"})
        count = torch.as_tensor(mask.sum() if num_items_in_batch is None else num_items_in_batch)
        output.loss = total / count.to(total.device)
        return output if table is None else CausalLMLossOutput(**output, group_losses=table)


@dataclass(frozen=True)
class _Targets:
    """Next tokens to predict, at the columns where any sample of the batch has a label.

    Attributes:
        columns: (columns), their indices; at least one.
        tokens: (batch, columns), the token that follows; -100 where there is no loss.
        groups: (batch, columns), the group of each label, or None.
        is_empty: whether no sample has a label.
    """

    columns: Tensor
    tokens: Tensor
    groups: Tensor | None
    is_empty: bool

    @classmethod
    def of(cls, labels: Tensor, group_ids: Tensor | None) -> "_Targets":
        """Shift labels and group ids by one, and select the columns with labels."""
        tokens = F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)
        columns = (tokens != IGNORE_INDEX).any(0).nonzero().squeeze(-1)
        is_empty = len(columns) == 0
        if is_empty:
            columns = columns.new_zeros(1)
        groups = None if group_ids is None else F.pad(group_ids[:, 1:], (0, 1))[:, columns]
        return cls(columns, tokens[:, columns].contiguous(), groups, is_empty)

    @property
    def mask(self) -> Tensor:
        """(batch, columns), true where there is a label."""
        return self.tokens != IGNORE_INDEX


def _loss_of_logits(
    output: CausalLMOutputWithPast, targets: _Targets, num_items_in_batch: Tensor | int | None
) -> CausalLMOutputWithPast:
    """Set the loss from the output's logits (batch, columns, vocabulary), as transformers does."""
    logits = cast(Tensor, output.logits)
    output.loss = ForCausalLMLoss(
        logits,
        labels=None,
        vocab_size=logits.shape[-1],
        num_items_in_batch=num_items_in_batch,  # ty: ignore[invalid-argument-type]
        shift_labels=targets.tokens,
    )
    if targets.groups is None:
        return output
    losses = F.cross_entropy(
        logits.detach().float().flatten(0, 1),
        targets.tokens.flatten(),
        reduction="none",
        ignore_index=IGNORE_INDEX,
    ).view_as(targets.tokens)
    losses, group_ids = losses[targets.mask], targets.groups[targets.mask]
    rows = [
        (group, losses[group_ids == group].sum(), (group_ids == group).sum())
        for group in group_ids.unique()
    ]
    return CausalLMLossOutput(**output, group_losses=_table(rows, losses))


def _table(rows: Sequence[tuple[Tensor, ...]], like: Tensor) -> Tensor:
    """Group, sum of losses and count as a table (groups, 3) of the dtype of `like`, detached."""
    numbers = [torch.stack([number.detach().to(like) for number in row]) for row in rows]
    return torch.stack(numbers) if numbers else like.new_zeros(0, 3)


def _is_whole(head: nn.Linear) -> bool:
    """Whether the head's weights can be used outside of its call: not sharded, not on "meta"."""
    if type(head) is not nn.Linear or head.weight.is_meta or torch.compiler.is_compiling():
        return False
    # DeepSpeed's ZeRO-3 marks parameters that it gathers for a call.
    return type(head.weight.data) is Tensor and not hasattr(head.weight, "ds_id")


def _run_capturing_head(
    language_model: PreTrainedModel, head: nn.Linear, inputs: dict[str, Any]
) -> tuple[CausalLMOutputWithPast, Tensor, Tensor]:
    """Run the model with hooks that capture the head's input and pass it the first column alone.

    Returns:
        The output, the head's input (batch, columns, width), and its result for the first column
        (batch, 1, vocabulary), which is the output's logits unless the model changes them later.
    """
    captured_inputs: list[Tensor] = []
    captured_logits: list[Tensor] = []

    def before(module: nn.Module, arguments: tuple[Tensor, ...]) -> Tensor:
        captured_inputs.append(arguments[0])
        return arguments[0][:, :1].detach()

    def after(module: nn.Module, arguments: tuple[Tensor, ...], logits: Tensor) -> None:
        captured_logits.append(logits.detach().clone())

    handles = (head.register_forward_pre_hook(before), head.register_forward_hook(after))
    try:
        output = language_model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return output, captured_inputs[0], captured_logits[0]

"""Optimizer parameter groups by learning rate (`--lr_multi`) and weight decay."""

import math
from collections.abc import Callable, Collection, Iterable
from typing import Any

from torch import nn

from mgm.errors import MGMError
from mgm.model.published_layout.weight_names import to_published
from mgm.train.args.arguments import TrainingArguments

PROJECTOR = "mm_projector"  # part of published parameter names


def parameter_groups(
    model: nn.Module, decayed: Collection[str], arguments: TrainingArguments
) -> list[dict[str, Any]]:
    """The trained parameters of a model in groups, each with or without weight decay.

    Groups with a learning rate of their own (`mm_projector_lr`, `lr_multi`) come last; their
    parameters are matched by published name.

    Args:
        model: its trained parameters are grouped.
        decayed: names of the parameters with weight decay.
        arguments: learning rate, weight decay and the two flags.

    Raises:
        MGMError: `lr_multi` is malformed, or matches no trained parameter or one of them twice.
    """
    trained = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    special = _special_rates(arguments)
    _check_disjoint([to_published(name) for name in trained], special)
    groups = []

    def add(rate: float | None, matches: Callable[[str], bool]) -> bool:
        """Append a group with and one without weight decay; whether any parameter matched."""
        count = len(groups)
        for decay in (True, False):
            names = [n for n in trained if (n in decayed) is decay and matches(to_published(n))]
            if not names:
                continue
            group: dict[str, Any] = {"params": [trained[name] for name in names]}
            group["weight_decay"] = arguments.weight_decay if decay else 0.0
            if rate is not None:
                group["lr"] = rate
            groups.append(group)
        return len(groups) > count

    add(None, lambda name: not any(part in name for part in special))
    for part, rate in special.items():
        if not add(rate, lambda name, part=part: part in name):
            raise MGMError(
                f"no trained parameter has {part!r} in its published name; "
                "choose for instance model.mm_projector, model.vlm_uni or lm_head"
            )
    return groups


def _check_disjoint(names: Iterable[str], special: Collection[str]) -> None:
    """Check that no parameter matches two learning rates."""
    for name in names:
        parts = [part for part in special if part in name]
        if len(parts) > 1:
            raise MGMError(
                f"--lr_multi: {parts[0]!r} and {parts[1]!r} both match {name}; "
                "write parts that have no parameter in common"
            )


def _special_rates(arguments: TrainingArguments) -> dict[str, float]:
    if arguments.mm_projector_lr is not None:
        return {PROJECTOR: arguments.mm_projector_lr}
    rates = {}
    for entry in filter(None, (arguments.lr_multi or "").split(",")):
        part, _, factor = entry.strip().rpartition(":")
        if not part or not _is_factor(factor):
            raise MGMError(
                f"--lr_multi: {entry!r} is not a part with a factor from 0; write for instance "
                "model.mm_projector:2,model.vlm_uni:2"
            )
        if part in rates:
            raise MGMError(f"--lr_multi: has {part!r} twice; give it one factor")
        rates[part] = arguments.learning_rate * float(factor)
    return rates


def _is_factor(text: str) -> bool:
    try:
        return 0 <= float(text) < math.inf
    except ValueError:
        return False

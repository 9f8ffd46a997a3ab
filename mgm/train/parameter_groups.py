"""Parameters in groups of one learning rate and one weight decay each."""

from collections.abc import Callable, Collection
from typing import Any

from torch import nn

from mgm.errors import MGMError
from mgm.model.published import to_published
from mgm.train.arguments import TrainingArguments

PROJECTOR = "mm_projector"  # in published parameter names


def parameter_groups(
    model: nn.Module, decayed: Collection[str], arguments: TrainingArguments
) -> list[dict[str, Any]]:
    """Groups for the optimizer: in each, trained parameters with weight decay or without.

    Those that `mm_projector_lr` or `lr_multi` names come after all others, which have the common
    learning rate. Names are the published ones.

    Args:
        model: its trained parameters are grouped.
        decayed: names of the parameters with weight decay.
        arguments: learning rate, weight decay and the two flags.

    Raises:
        MGMError: `lr_multi` cannot be read, or names no trained parameter.
    """
    trained = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    special = _special_rates(arguments)
    groups = []

    def add(rate: float | None, wanted: Callable[[str], bool]) -> int:
        found = 0
        for decay in (True, False):
            names = [n for n in trained if (n in decayed) is decay and wanted(to_published(n))]
            if not names:
                continue
            group: dict[str, Any] = {"params": [trained[name] for name in names]}
            group["weight_decay"] = arguments.weight_decay if decay else 0.0
            if rate is not None:
                group["lr"] = rate
            groups.append(group)
            found += len(names)
        return found

    add(None, lambda name: not any(part in name for part in special))
    for part, rate in special.items():
        if not add(rate, lambda name, part=part: part in name):
            raise MGMError(
                f"no trained parameter has {part!r} in its published name; "
                "choose for instance model.mm_projector, model.vlm_uni or lm_head"
            )
    return groups


def _special_rates(arguments: TrainingArguments) -> dict[str, float]:
    if arguments.mm_projector_lr is not None:
        return {PROJECTOR: arguments.mm_projector_lr}
    rates = {}
    for entry in filter(None, (arguments.lr_multi or "").split(",")):
        part, colon, factor = entry.strip().rpartition(":")
        try:
            if not part or not colon:
                raise ValueError(entry)
            rates[part] = arguments.learning_rate * float(factor)
        except ValueError as error:
            raise MGMError(
                f"--lr_multi: {entry!r} is no part and factor; write for instance "
                "model.mm_projector:2,model.vlm_uni:2"
            ) from error
    return rates

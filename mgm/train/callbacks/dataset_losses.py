"""The loss of each data source since the last report, over all processes."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


def all_reduce_sum(numbers: Tensor) -> Tensor:
    """The sum of all processes' numbers, in place; all of them have to ask."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(numbers)
    return numbers


class DatasetLosses:
    """Sums of losses and labels by source.

    Args:
        names: of the sources, by their numbers; none: there is one, and nothing is counted.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.sums: Tensor | None = None  # (sources, 2)

    def add(self, group_losses: Tensor | None) -> None:
        """Add what `CausalLMLossOutput.group_losses` of a batch says."""
        if group_losses is None or not self.names:
            return
        if self.sums is None:
            self.sums = group_losses.new_zeros(len(self.names), 2)
        self.sums.index_add_(0, group_losses[:, 0].long(), group_losses[:, 1:])

    def take(self, device: torch.device) -> dict[str, float]:
        """The mean loss of each source that was seen, as `loss/NAME`; counting begins anew.

        All processes have to ask.
        """
        if not self.names:
            return {}
        sums = torch.zeros(len(self.names), 2, device=device) if self.sums is None else self.sums
        self.sums = None
        all_reduce_sum(sums)
        return {
            f"loss/{name}": total / count
            for name, (total, count) in zip(self.names, sums.tolist(), strict=True)
            if count
        }

"""Training loss by data set of a mixture, averaged over tokens and processes between two logs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mgm.train.distributed.collectives import all_reduce_sum


class DatasetLosses:
    """Accumulates the summed loss and the number of labels of each data set.

    Args:
        names: names of the data sets, by index; empty: only one, and nothing is accumulated.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.sums: Tensor | None = None  # (data sets, 2)

    def add(self, group_losses: Tensor | None) -> None:
        """Add the `group_losses` of a batch: rows of data set index, summed loss and labels."""
        if group_losses is None or not self.names:
            return
        if self.sums is None:
            self.sums = group_losses.new_zeros(len(self.names), 2)
        self.sums.index_add_(0, group_losses[:, 0].long(), group_losses[:, 1:])

    def take(self, device: torch.device) -> dict[str, float]:
        """Mean losses since the last call, as `loss/NAME`, of the data sets that were seen.

        A collective: all processes have to call it.
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

"""Attention with one query for all tokens: patch info mining that ignores the tokens."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mgm.model.vision.fusion.fusion_sizes import FusionSizes
from mgm.model.vision.patch_info_mining import PatchInfoMining, attend_windows
from mgm.model.vision.windowed_map import WindowedMap


class OneQuery(nn.Module):
    """Attention over each window with one learned query: softmax(q K(x)^T / sqrt(C)) V(x).

    Args:
        sizes: widths of tokens and maps.
        mining: whose key and value projections are used, as an ablation at inference; None: new
            ones, which a seed gives the same weights as in mining.
        query: for such an ablation, (1, C) or one for each image, (B, C); None: a parameter.
    """

    def __init__(
        self,
        sizes: FusionSizes,
        mining: PatchInfoMining | None = None,
        query: Tensor | None = None,
    ) -> None:
        super().__init__()
        mining = mining or PatchInfoMining(sizes.width, sizes.stage_widths)
        self.key, self.value = mining.key, mining.value
        if query is None:  # as large as the queries of mining at the start
            query = nn.Parameter(torch.randn(1, sizes.width) / math.sqrt(3))
        self.query = query

    def forward(self, tokens: Tensor, stages: Sequence[Tensor]) -> Tensor:
        """What the query mines in each window, (B, N, C); arguments as for `PatchInfoMining`."""
        mixture = self._over_windows(tokens, stages, WindowedMap.mix)
        return self.value(mixture.to(tokens.dtype)).to(tokens.dtype)

    def attention(self, tokens: Tensor, stages: Sequence[Tensor]) -> Tensor:
        """Attention weights (B, N, P) over each window's positions, row-major."""
        return self._over_windows(tokens, stages, lambda windows, attention: attention)

    def _over_windows(
        self,
        tokens: Tensor,
        stages: Sequence[Tensor],
        compute: Callable[[WindowedMap, Tensor], Tensor],
    ) -> Tensor:
        queries, bias = self.key(self.query.unsqueeze(1) / math.sqrt(tokens.shape[-1]))
        shape = (*tokens.shape[:2], -1)
        return attend_windows(
            queries.expand(shape), bias.expand(shape), stages, self.key.norm.eps, compute
        )

"""Mean of each window: patch info mining with equal weights, without query and key."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mgm.model.vision.fusion.fusion_sizes import FusionSizes
from mgm.model.vision.patch_info_mining import PatchInfoMining, over_windows
from mgm.model.vision.windowed_map import WindowedMap


class WindowPooling(nn.Module):
    """Mean of the normalised positions of each window, projected: W mean(LayerNorm(x)) + b.

    Args:
        sizes: widths of tokens and maps.
        mining: whose value projection is used, as an ablation at inference; None: a new one, which
            a seed gives the same weights as in mining.
    """

    def __init__(self, sizes: FusionSizes, mining: PatchInfoMining | None = None) -> None:
        super().__init__()
        self.value = (mining or PatchInfoMining(sizes.width, sizes.stage_widths)).value

    def forward(self, tokens: Tensor, stages: Sequence[Tensor]) -> Tensor:
        """Mean of each token's window, (B, N, C); arguments as for `PatchInfoMining.forward`."""
        mean = self._over_windows(tokens, stages, WindowedMap.mix)
        return self.value(mean.to(tokens.dtype)).to(tokens.dtype)

    def attention(self, tokens: Tensor, stages: Sequence[Tensor]) -> Tensor:
        """The same weight for each position of a window, (B, N, P)."""
        return self._over_windows(tokens, stages, lambda windows, weights: weights)

    def _over_windows(
        self,
        tokens: Tensor,
        stages: Sequence[Tensor],
        compute: Callable[[WindowedMap, Tensor], Tensor],
    ) -> Tensor:
        def pool(windowed_map: WindowedMap, images: slice, windows: slice) -> Tensor:
            positions = windowed_map.rstd  # (B, N, P)
            return compute(windowed_map, torch.full_like(positions, 1 / positions.shape[-1]))

        return over_windows(stages, math.isqrt(tokens.shape[1]), self.value.norm.eps, pool)

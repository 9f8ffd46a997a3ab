"""Channel concatenation of tokens and maps, as in Eagle (https://arxiv.org/abs/2408.15998).

Eagle resizes the second encoder's last map to the token grid. Here every map is rearranged to it
by space to depth, so that no position is lost.

Shape legend: as in `patch_info_mining`; D channels of all maps after space to depth.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mgm.model.vision.fusion.fusion_sizes import FusionSizes


class Concatenation(nn.Module):
    """Linear projection of a token and all positions of its window: W [t; R LayerNorm(x)] + b.

    x are the D channels of the window's positions, and R has the rank with which the matrices have
    as many parameters as those of patch info mining, C x C + 2 x C x H: 2 C H / (C + D).

    Args:
        sizes: widths of tokens and maps, and positions of a window.
    """

    def __init__(self, sizes: FusionSizes) -> None:
        super().__init__()
        self.windows = sizes.stage_windows
        depth = sum(
            channels * window**2
            for channels, window in zip(sizes.stage_widths, self.windows, strict=True)
        )
        rank = max(1, round(2 * sizes.width * sizes.map_width / (sizes.width + depth)))
        self.norm = nn.LayerNorm(depth)
        self.reduce = nn.Linear(depth, rank, bias=False)
        self.mix = nn.Linear(sizes.width + rank, sizes.width)

    def forward(self, tokens: Tensor, stages: Sequence[Tensor]) -> Tensor:
        """Fused features of the tokens, (B, N, C).

        Args:
            tokens: (B, N, C), a square grid in row-major order.
            stages: maps (B, channels, side, side), finest first; one with another number of
                positions a window than the module was built for is resized (bilinear).
        """
        grid = math.isqrt(tokens.shape[1])
        positions = []
        for stage, window in zip(stages, self.windows, strict=True):
            side = grid * window
            if stage.shape[-1] != side:
                stage = F.interpolate(stage, (side, side), mode="bilinear", align_corners=False)
            positions.append(F.pixel_unshuffle(stage, window))
        depth = torch.cat(positions, dim=1).flatten(2).transpose(1, 2)  # (B, N, D)
        reduced = self.reduce(self.norm(depth))
        return self.mix(torch.cat([tokens, reduced.to(tokens.dtype)], dim=-1)).to(tokens.dtype)

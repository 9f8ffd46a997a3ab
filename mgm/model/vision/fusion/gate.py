"""Convolution and gate: the fusion module of MG-LLaVA (https://arxiv.org/abs/2406.17770).

With t the tokens and x the map at the token grid, everything but the 7 x 7 convolution by position:

    h  = W2 GELU(W1 x)
    t' = t + P GELU(DepthwiseConv7x7(t))
    g  = tanh(A GELU(B mean([t'; h])))       one number for each image
    fused token = t' + g h

It differs from the published code (DualPathFuseModule in its fuse_model.py) in two points. That
takes the last map alone, as `stages` (4,) does here; other maps are averaged over each window. And
W1 has C rows in place of as many as the map has channels, which would be more parameters than those
of patch info mining.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mgm.model.vision.fusion.fusion_sizes import FusionSizes

KERNEL_SIZE = 7


class ConvGate(nn.Module):
    """MG-LLaVA's fusion, without the token that it is added to: P GELU(Conv(t)) + g h.

    Projections start from zero, as published: at the start the fused tokens are the ViT's.

    Args:
        sizes: widths of tokens and maps.
    """

    def __init__(self, sizes: FusionSizes) -> None:
        super().__init__()
        width = sizes.width
        self.high = nn.Sequential(
            nn.Linear(sizes.map_width, width), nn.GELU(), nn.Linear(width, width)
        )
        self.low = nn.Sequential(
            nn.Conv2d(width, width, KERNEL_SIZE, padding=KERNEL_SIZE // 2, groups=width),
            nn.GELU(),
            nn.Conv2d(width, width, 1),
        )
        self.gate = nn.Sequential(
            nn.Linear(2 * width, width // 2), nn.GELU(), nn.Linear(width // 2, 1)
        )
        for parameter in (*self.high[-1].parameters(), *self.low[-1].parameters()):
            nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, stages: Sequence[Tensor]) -> Tensor:
        """What is added to the tokens, (B, N, C); arguments as for `PatchInfoMining.forward`."""
        grid = math.isqrt(tokens.shape[1])
        maps = [F.adaptive_avg_pool2d(stage, grid) for stage in stages]
        high = self.high(torch.cat(maps, dim=1).flatten(2).transpose(1, 2))
        added = self.low(tokens.transpose(1, 2).unflatten(2, (grid, grid)))
        added = added.flatten(2).transpose(1, 2)
        gate = self.gate(torch.cat([tokens + added, high], dim=-1).mean(1, keepdim=True))
        return (added + gate.tanh() * high).to(tokens.dtype)

"""Random tokens and maps in several layouts of windows, and patch info mining for them."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from mgm.model.vision.fusion.fusion_sizes import FusionSizes
from mgm.model.vision.patch_info_mining import PatchInfoMining

Module = TypeVar("Module", bound=nn.Module)
DIMS = (4, 8, 12, 16)
POWERS = (1, 2, 4, 8)
# side of the token grid, side of the finest map, how many times coarser each stage is
LAYOUTS: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "nano": (8, 64, POWERS),
    "one window": (1, 8, POWERS),
    "windows smaller than a cell": (8, 32, POWERS),
    "odd factors": (5, 40, (1, 4, 5, 8)),
    "few positions": (4, 8, (1, 1, 2, 4)),
}


def stirred(module: Module, dtype: torch.dtype = torch.float64) -> Module:
    """A module whose parameters were moved away from zero and one."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.to(dtype)


def stirred_mining(width: int, dtype: torch.dtype) -> PatchInfoMining:
    return stirred(PatchInfoMining(width, DIMS), dtype)


def stages_of(side: int, factors: Sequence[int], dtype: torch.dtype) -> list[Tensor]:
    maps = [
        (2 * torch.randn(2, channels, side // factor, side // factor) + 1).to(dtype)
        for channels, factor in zip(DIMS, factors, strict=True)
    ]
    return [stage.requires_grad_() for stage in maps]


def sizes_of(layout: str, width: int) -> FusionSizes:
    """Sizes of tokens and maps in a layout."""
    grid, side, factors = LAYOUTS[layout]
    windows = tuple(max(1, side // factor // grid) for factor in factors)
    return FusionSizes(width, DIMS, windows)

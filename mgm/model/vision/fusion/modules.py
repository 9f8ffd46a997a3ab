"""Table of fusion modules by mode: patch info mining and its rivals.

A module is called with the tokens (B, N, C) of a square grid and the used high-resolution maps
(B, channels, side, side), finest first, and returns what is added to the tokens, (B, N, C). Its
method `attention`, where it has one, returns each token's weights over its window, (B, N, P).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mgm.model.vision.fusion.concat import Concatenation
from mgm.model.vision.fusion.gate import ConvGate
from mgm.model.vision.fusion.one_query import OneQuery
from mgm.model.vision.fusion.pool import WindowPooling
from mgm.model.vision.patch_info_mining import PatchInfoMining, downscaled

MINING, POOL, ONE_QUERY, NONE = "mining", "pool", "one_query", "none"

# Rivals of mining; each is built from `FusionSizes`.
RIVALS: Mapping[str, type[nn.Module]] = {
    ONE_QUERY: OneQuery,
    POOL: WindowPooling,
    "concat": Concatenation,
    "gate": ConvGate,
}
FUSION_MODES = (MINING, *RIVALS, NONE)
WITH_TOKENS = frozenset({"concat", "gate"})  # modes whose output contains the tokens themselves
ABLATIONS_OF_MINING = (POOL, ONE_QUERY)  # modes that also run with mining's weights


def build_fusion(config: Any) -> nn.Module:
    """Build the fusion module of an `MGMConfig` with a high-resolution tower."""
    sizes = config.fusion_sizes
    if config.fusion.mode == MINING:
        return PatchInfoMining(sizes.width, sizes.stage_widths)
    return RIVALS[config.fusion.mode](sizes)


def ablated_mining(
    mining: PatchInfoMining, config: Any, mode: str, query: Sequence[float] | None, tokens: Tensor
) -> nn.Module:
    """A rival with the weights of mining, none copied, for an ablation at inference.

    Args:
        mining: the model's module.
        config: the `MGMConfig` of the model.
        mode: one of `ABLATIONS_OF_MINING`.
        query: for mode "one_query", C numbers; None: the mean query of each image.
        tokens: tokens of all crops, (images, crops, N, C).
    """
    if mode == POOL:
        return WindowPooling(config.fusion_sizes, mining)
    if query is None:
        return OneQuery(config.fusion_sizes, mining, mining.query(tokens).mean((1, 2)))
    return OneQuery(config.fusion_sizes, mining, tokens.new_tensor([query]))


def over_crops(
    module: Callable[..., Tensor],
    tokens: Tensor,
    stages: Sequence[Tensor],
    config: Any,
    window_shift: int = 0,
) -> Tensor:
    """Apply a fusion module, or its `attention`, to the tokens of every crop.

    Args:
        module: maps tokens (B, N, C) and stages to (B, N, ...).
        tokens: (images, crops, N, C).
        stages: maps of the whole images, finest first.
        config: the `MGMConfig` of the model, which says what the crops are.
        window_shift: as in `FusionConfig`.

    Returns:
        (images, crops, N, ...).
    """
    if window_shift:
        module = partial(_on_rolled_maps, module, window_shift)
    grid, side = config.image_grid, config.tokens_per_side
    cells = tokens[:, : grid**2].unflatten(2, (side, side)).unflatten(1, (grid, grid))
    # Side by side, the cells' tokens are one finer grid over the whole high-resolution map.
    whole = cells.transpose(2, 3).flatten(1, 4)
    mined = module(whole, stages).unflatten(1, (grid, side, grid, side))
    mined = mined.transpose(2, 3).flatten(3, 4).flatten(1, 2)
    if not config.image_global:
        return mined
    mined_global = module(tokens[:, -1], downscaled(stages, grid))
    return torch.cat([mined, mined_global.unsqueeze(1)], dim=1)


def _on_rolled_maps(
    module: Callable[..., Tensor], shift: int, tokens: Tensor, stages: Sequence[Tensor]
) -> Tensor:
    """Apply a module to maps that are rolled by `shift` windows to the right."""
    # Rolling the maps to the right is rolling the tokens to the left.
    grid = math.isqrt(tokens.shape[1])
    rolled = tokens.unflatten(1, (grid, grid)).roll(-shift, 2).flatten(1, 2)
    mined = module(rolled, stages)
    return mined.unflatten(1, (grid, grid)).roll(shift, 2).flatten(1, 2)

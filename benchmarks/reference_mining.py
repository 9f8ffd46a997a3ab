"""Patch info mining as published, the reference that `patch_info_mining.py` is tested against."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mgm.model.vision.patch_info_mining import (
    AbsorbedKey,
    AbsorbedValue,
    NormedLinear,
    PatchInfoMining,
)


def concatenated_map(stages: Sequence[Tensor]) -> Tensor:
    """All stages at the first one's size, (B, H, S, S). Source: openclip_encoder.py L73-85."""
    size = stages[0].shape[-2:]
    upsampled = [F.interpolate(stage, size=size, mode="bilinear") for stage in stages[1:]]
    return torch.cat([stages[0], *upsampled], dim=1)


def published_mining(mining: PatchInfoMining, tokens: Tensor, full: Tensor) -> Tensor:
    """Mine with keys and values of every position. Source: mgm_arch.py L293-311.

    Args:
        mining: module with the parameters.
        tokens: (B, N, C), a square grid in row-major order.
        full: the concatenated map (B, H, S, S).

    Returns:
        (B, N, C).
    """
    value = _normed_linear(mining.value, _windows(tokens, full))
    return (published_attention(mining, tokens, full).unsqueeze(2) @ value).squeeze(2)


def published_attention(mining: PatchInfoMining, tokens: Tensor, full: Tensor) -> Tensor:
    """Attention weights (B, N, P) of each token over its window; see `published_mining`."""
    key = _normed_linear(mining.key, _windows(tokens, full))
    query = _normed_linear(mining.query, tokens).unsqueeze(2)
    scores = query @ (key.transpose(-1, -2) / math.sqrt(tokens.shape[-1]))
    return scores.softmax(-1).squeeze(2)


def _windows(tokens: Tensor, full: Tensor) -> Tensor:
    """The features of each token's window, (B, N, P, H)."""
    batch, count, _ = tokens.shape
    grid = math.isqrt(count)
    window = full.shape[-1] // grid
    positions = full.reshape(batch, -1, grid, window, grid, window).permute(0, 2, 4, 3, 5, 1)
    return positions.reshape(batch, count, window * window, -1)


def _normed_linear(layer: NormedLinear | AbsorbedKey | AbsorbedValue, x: Tensor) -> Tensor:
    norm = layer.norm
    normed = F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    return F.linear(normed, layer.weight, layer.bias)

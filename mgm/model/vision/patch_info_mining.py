"""Patch info mining, a windowed cross-attention (https://arxiv.org/abs/2403.18814, section 3.2).

Cross-attention from low-resolution visual tokens, the queries, to the high-resolution candidates:
the positions of the window of the ConvNeXt map that covers the same part of the image.

The published code normalises and projects every position of the concatenated, upsampled
ConvNeXt map to keys and values. Two exact identities avoid that:

1. The key and value projections are absorbed: queries are projected to the channels of the map, and
   the value projection is applied to the attention-weighted sum (the weights add up to one).
2. The concatenated map is never built: upsampling is linear, so scores and weighted sums are
   computed on the cells of each stage, and only one number per position is upsampled. The LayerNorm
   of a concatenated vector needs only its mean and variance, which follow from each stage's means,
   squared norms and products of neighbouring cells.

`benchmarks/reference_mining.py` is the published form, short and slow, that the tests compare with.

Shape legend: B images, N tokens = side x side windows, C token width, H channels of all
stages, S side of the stage-0 map, P positions of a window = (S / side) squared, K its cells.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mgm.model.vision.windowed_map import WindowedMap, resize

TILE_ELEMENTS = 4 << 20  # elements of all stages in one tile on a CPU: a few MiB


class _NormAndLinear(nn.Module):
    """Parameters of a LayerNorm and the Linear after it, for subclasses that use them differently.

    The module holds the linear parameters itself, and the norm's are used only in the norm's own
    forward: ZeRO-3 and offloading, which gather a module's parameters for its call alone, and
    quantisation and LoRA, which replace linear modules, then work as for any module.
    """

    def __init__(self, width: int, out_width: int, norm: type[nn.LayerNorm]) -> None:
        super().__init__()
        self.norm = norm(width, eps=1e-5)
        self.weight = nn.Parameter(torch.empty(out_width, width))
        self.bias = nn.Parameter(torch.empty(out_width))
        bound = 1 / math.sqrt(width)  # torch's own initialisation of nn.Linear
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)


class _KeyAffine(nn.LayerNorm):
    """Affine part of a LayerNorm, multiplied into the matrix that follows it."""

    def forward(self, matrix: Tensor) -> tuple[Tensor, Tensor]:  # ty: ignore[incompatible-method-override]
        """(out_width, width) -> the matrix for normalised inputs, and its bias (out_width)."""
        return matrix * self.weight, matrix @ self.bias


class _ValueAffine(nn.LayerNorm):
    """Affine part of a LayerNorm, without the normalisation."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., width) -> the same shape."""
        return input * self.weight + self.bias


class NormedLinear(_NormAndLinear):
    """LayerNorm and Linear: the query projection."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__(width, out_width, nn.LayerNorm)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., out_width)."""
        return F.linear(self.norm(x), self.weight, self.bias)


class AbsorbedKey(_NormAndLinear):
    """Key projection, applied to the queries instead of to the map."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__(width, out_width, _KeyAffine)

    def forward(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (B, N, C) -> absorbed queries (B, N, H) and their scores' bias (B, N, 1)."""
        matrix, bias = self.norm(self.weight)
        absorbed = queries @ matrix
        # The bias is the same for every position of a window, so softmax cancels it; it stays in
        # the graph because data-parallel training expects a gradient, here zero, of each parameter.
        return absorbed, queries @ (bias + self.bias).unsqueeze(-1)


class AbsorbedValue(_NormAndLinear):
    """Value projection, applied after attention to the weighted sum of normalised positions."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__(width, out_width, _ValueAffine)

    def forward(self, mixture: Tensor) -> Tensor:
        """Weighted sums of normalised positions (B, N, H) -> (B, N, C)."""
        return F.linear(self.norm(mixture), self.weight, self.bias)


class PatchInfoMining(nn.Module):
    """Cross-attention of each low-resolution token over its high-resolution window.

    Args:
        width: channels of a token, C.
        aux_dims: channels of each high-resolution stage.
    """

    def __init__(self, width: int, aux_dims: Sequence[int]) -> None:
        super().__init__()
        self.query = NormedLinear(width, width)
        self.key = AbsorbedKey(sum(aux_dims), width)
        self.value = AbsorbedValue(sum(aux_dims), width)

    def forward(self, tokens: Tensor, stages: Sequence[Tensor]) -> Tensor:
        """Attend from each token to its window; statistics and softmax are in float32.

        Args:
            tokens: (B, N, C), a square grid in row-major order.
            stages: maps (B, channels, side, side), finest first; coarser ones are taken as
                upsampled to the finest (bilinear, corners not aligned). The finest side is a
                multiple of the token grid's side.

        Returns:
            The mined feature of each token, (B, N, C).

        Raises:
            ValueError: tokens and maps are of different numbers of images.
        """
        mixture = self._over_windows(tokens, stages, WindowedMap.mix)
        return self.value(mixture.to(tokens.dtype)).to(tokens.dtype)

    def attention(self, tokens: Tensor, stages: Sequence[Tensor]) -> Tensor:
        """Attention weights (B, N, P) of each token over its window's positions, row-major.

        Args:
            tokens: as for `forward`.
            stages: as for `forward`.
        """
        return self._over_windows(tokens, stages, lambda windows, attention: attention)

    def _over_windows(
        self,
        tokens: Tensor,
        stages: Sequence[Tensor],
        compute: Callable[[WindowedMap, Tensor], Tensor],
    ) -> Tensor:
        """`compute` of the windows and their attention weights: (B, N, ...)."""
        queries, bias = self.key(self.query(tokens) / math.sqrt(tokens.shape[-1]))
        return attend_windows(queries, bias, stages, self.key.norm.eps, compute)


def attend_windows(
    queries: Tensor,
    bias: Tensor,
    stages: Sequence[Tensor],
    eps: float,
    compute: Callable[[WindowedMap, Tensor], Tensor],
) -> Tensor:
    """Attention of queries over their windows, tile by tile.

    Args:
        queries: absorbed queries of a square grid of windows, (B, N, H).
        bias: bias of their scores, (B, N, 1).
        stages: as for `PatchInfoMining.forward`.
        eps: epsilon of the normalisation of positions.
        compute: computes (images, windows, ...) from a tile's windows and their attention weights.

    Returns:
        The results of all tiles, (B, N, ...).

    Raises:
        ValueError: queries and maps are of different numbers of images.
    """
    if len(queries) != len(stages[0]):
        raise ValueError(f"{len(queries)} images of tokens, but {len(stages[0])} of maps")

    def attend(windowed_map: WindowedMap, images: slice, windows: slice) -> Tensor:
        scores = windowed_map.scores(queries[images, windows])
        scores = scores + bias[images, windows].to(windowed_map.dtype)
        return compute(windowed_map, scores.softmax(-1))

    return over_windows(stages, math.isqrt(queries.shape[1]), eps, attend)


def over_windows(
    stages: Sequence[Tensor],
    grid: int,
    eps: float,
    compute: Callable[[WindowedMap, slice, slice], Tensor],
) -> Tensor:
    """`compute` of each tile, its images and its windows: (B, N, ...); without autocast."""
    kind = stages[0].device.type
    has_autocast = torch.amp.is_autocast_available(kind)  # not on "meta"
    with torch.autocast(kind, enabled=False) if has_autocast else nullcontext():
        parts = [
            compute(WindowedMap(tile, grid, eps), images, windows)
            for images, windows, tile in tiles(stages, grid)
        ]
        return torch.cat(parts, dim=1).view(len(stages[0]), grid**2, -1)


def tiles(stages: Sequence[Tensor], grid: int) -> Iterator[tuple[slice, slice, list[Tensor]]]:
    """Split maps into tiles of a few rows of windows.

    On a CPU a tile fits the cache: allocating whole maps would cost more than the arithmetic. A
    coarser stage's tile has one more row of cells at each end, replicated at the map's edge.

    Args:
        stages: whole maps (B, channels, side, side), finest first.
        grid: windows a side.

    Yields:
        Slices of images and of windows, and the tile of each stage (images, rows, side, channels).
    """
    side = stages[0].shape[-1]
    window = side // grid
    whole = [stage.permute(0, 2, 3, 1) for stage in stages]
    factors = [side // stage.shape[1] for stage in whole]
    # Whole maps on other devices, in compiled graphs, and where a slice's gradient is a whole map.
    on_cpu = stages[0].device.type == "cpu" and not torch.compiler.is_compiling()
    has_gradients = torch.is_grad_enabled() and any(stage.requires_grad for stage in stages)
    divisible = side % grid == 0 and all(
        side % stage.shape[1] == 0 and window % factor == 0
        for stage, factor in zip(whole, factors, strict=True)
    )
    if has_gradients or not (on_cpu and divisible):
        yield slice(None), slice(None), whole
        return
    steps = [window // factor for factor in factors]  # cells of a window, per stage
    elements = sum(s[0, :step].numel() for s, step in zip(whole, steps, strict=True))
    rows = max(1, TILE_ELEMENTS // elements)
    for image in range(len(whole[0])):
        for top in range(0, grid, rows):
            end = min(top + rows, grid)
            tile = []
            for stage, step, factor in zip(whole, steps, factors, strict=True):
                border = int(factor > 1)
                nearby = torch.arange(top * step - border, end * step + border)
                tile.append(stage[image : image + 1, nearby.clamp(0, stage.shape[1] - 1)])
            yield slice(image, image + 1), slice(top * grid, end * grid), tile


def downscaled(stages: Sequence[Tensor], factor: int) -> list[Tensor]:
    """Stages of the concatenated map downscaled by `factor`, for the global view's tokens.

    The published code upsamples coarser stages to the finest and then downscales bilinearly
    (corners not aligned). Where that samples a coarse stage's interpolation only within linear
    segments, the stage itself gives the same result; any other stage is resized.
    """
    side = stages[0].shape[-1]
    return [_downscaled_stage(stage, side, factor) for stage in stages]


def _downscaled_stage(stage: Tensor, side: int, factor: int) -> Tensor:
    cells = stage.shape[-1]
    if side % cells == 0 and (side // cells) % (2 * factor) == 0:
        return stage
    return resize(resize(stage, (side, side)), (side // factor, side // factor))

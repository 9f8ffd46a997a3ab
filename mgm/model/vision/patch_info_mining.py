"""Patch info mining: every low-resolution token looks into its window of high-resolution detail.

The published form normalises and projects every position of the concatenated, upsampled
ConvNeXt map. Two exact identities make that unnecessary:

1. The key and value projections are absorbed: the query moves to the channels of the map, and the
   value projection acts on the attended mixture (attention weights add up to one).
2. The concatenated map is never built: upsampling is linear, so scores and mixtures are computed on
   the cells of each stage, and only one number per position is upsampled. The LayerNorm of a
   concatenated vector needs its mean and variance alone, which come from each stage's means,
   energies and products of neighbouring cells.

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

from mgm.model.vision.fusion.fusion_config import ONE_QUERY, POOL, FusionConfig
from mgm.model.vision.windowed_map import WindowedMap, resize

TILE_ELEMENTS = 4 << 20  # numbers of all stages that are worked on at once on a CPU: a few MiB


class _NormAndLinear(nn.Module):
    """The parameters of a LayerNorm and a Linear after it; what is done with them differs.

    The linear ones are the module's own, and the norm's are used in the norm's own forward alone:
    whoever brings a module's parameters for its call and takes them away after it (ZeRO-3,
    offloading), or replaces linear modules (quantisation, LoRA), finds what is expected.
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
    """The affine part of a LayerNorm, moved into the matrix that comes after it."""

    def forward(self, matrix: Tensor) -> tuple[Tensor, Tensor]:  # ty: ignore[incompatible-method-override]
        """(out_width, width) -> the matrix for normalised inputs, and its bias (out_width)."""
        return matrix * self.weight, matrix @ self.bias


class _ValueAffine(nn.LayerNorm):
    """The affine part of a LayerNorm, without the normalisation."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., width) -> the same shape."""
        return input * self.weight + self.bias


class NormedLinear(_NormAndLinear):
    """LayerNorm, then Linear."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__(width, out_width, nn.LayerNorm)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., out_width)."""
        return F.linear(self.norm(x), self.weight, self.bias)


class AbsorbedKey(_NormAndLinear):
    """A key projection that moves queries to the map's channels instead of projecting the map."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__(width, out_width, _KeyAffine)

    def forward(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, C) -> queries on normalised channels (B, N, H), a shared score (B, N, 1)."""
        matrix, bias = self.norm(self.weight)
        moved = queries @ matrix
        # The same for every position of a window, so the softmax forgets it; it stays in the graph
        # because data-parallel training expects a gradient, here zero, for every parameter.
        return moved, queries @ (bias + self.bias).unsqueeze(-1)


class AbsorbedValue(_NormAndLinear):
    """A value projection that acts on a mixture of normalised positions."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__(width, out_width, _ValueAffine)

    def forward(self, mixture: Tensor) -> Tensor:
        """(B, N, H) mixture of normalised positions -> (B, N, C)."""
        return F.linear(self.norm(mixture), self.weight, self.bias)


class PatchInfoMining(nn.Module):
    """Mine the high-resolution map for every low-resolution token.

    Args:
        width: channels of a token, C.
        aux_dims: channels of each high-resolution stage.
        fusion: how a window's positions are weighted, and which window is whose; None: by
            attention of each token to its own.
    """

    def __init__(
        self, width: int, aux_dims: Sequence[int], fusion: FusionConfig | None = None
    ) -> None:
        super().__init__()
        self.aux_dims = tuple(aux_dims)
        self.fusion = fusion or FusionConfig()
        self.query = NormedLinear(width, width)
        self.key = AbsorbedKey(sum(aux_dims), width)
        self.value = AbsorbedValue(sum(aux_dims), width)

    def forward(self, tokens: Tensor, stages: Sequence[Tensor]) -> Tensor:
        """Attend from each token to its window, in float32 wherever rounding would show.

        Args:
            tokens: (B, N, C), a square grid in row-major order.
            stages: maps (B, channels, side, side), finest first; coarser ones count as upsampled
                to the finest (bilinear, corners not aligned). The finest side is a multiple of the
                token grid's side.

        Returns:
            What was mined for each token, (B, N, C).

        Raises:
            ValueError: there are tokens or windows without a map of their own.
        """
        mixture = self._over_windows(tokens, stages, WindowedMap.mix)
        return self.value(mixture.to(tokens.dtype)).to(tokens.dtype)

    def attention(self, tokens: Tensor, stages: Sequence[Tensor]) -> Tensor:
        """Where each token looks: (B, N, P), a window's positions row by row, adding up to one.

        Args:
            tokens: as for `forward`.
            stages: as for `forward`.
        """
        return self._over_windows(tokens, stages, lambda windows, attention: attention)

    def _over_windows(
        self,
        tokens: Tensor,
        stages: Sequence[Tensor],
        result: Callable[[WindowedMap, Tensor], Tensor],
    ) -> Tensor:
        """What `result` makes of windows and the weights of their positions, (B, N, ...)."""
        if len(tokens) != len(stages[0]):
            raise ValueError(f"{len(tokens)} images of tokens, but {len(stages[0])} of maps")
        grid, eps = math.isqrt(tokens.shape[1]), self.key.norm.eps
        shift = self.fusion.window_shift
        # Maps that move to the right are tokens that move to the left, to another's window.
        queries = self._queries(_rolled(tokens, grid, -shift)) / math.sqrt(tokens.shape[-1])
        moved, shared = self.key(queries)
        kind = tokens.device.type
        knows = torch.amp.is_autocast_available(kind)  # not where operations are only counted
        with torch.autocast(kind, enabled=False) if knows else nullcontext():
            parts = []
            for images, own, band in tiles(stages, grid):
                windows = WindowedMap(band, grid, eps)
                weights = self._weights(windows, moved[images, own], shared[images, own])
                parts.append(result(windows, weights))
            return _rolled(torch.cat(parts, dim=1).view(*tokens.shape[:2], -1), grid, shift)

    def _queries(self, tokens: Tensor) -> Tensor:
        """What each token (B, N, C) asks its window by, the same shape."""
        queries = self.query(tokens)
        if self.fusion.mode != ONE_QUERY:
            return queries
        if self.fusion.query is None:
            return queries.mean(1, keepdim=True).expand_as(queries)
        return queries.new_tensor(self.fusion.query).expand_as(queries)

    def _weights(self, windows: WindowedMap, moved: Tensor, shared: Tensor) -> Tensor:
        """Weights of the positions of windows, (B, N, P), which add up to one."""
        if self.fusion.mode == POOL:
            return torch.full_like(windows.rstd, 1 / windows.rstd.shape[-1])
        scores = windows.scores(moved) + shared.to(windows.dtype)
        return scores.softmax(-1)


def _rolled(rows: Tensor, grid: int, columns: int) -> Tensor:
    """(B, N, ...) of a square grid, moved so many columns to the right, around the edge."""
    if columns == 0:
        return rows
    return rows.unflatten(1, (grid, grid)).roll(columns, 2).flatten(1, 2)


def tiles(stages: Sequence[Tensor], grid: int) -> Iterator[tuple[slice, slice, list[Tensor]]]:
    """The work in parts: which images, which of their windows, and the stages there.

    On a CPU a part fits its cache: fresh memory for whole maps would cost more than the arithmetic.
    A band of a coarser stage has one row of cells more at each end, repeated at the map's edge.

    Args:
        stages: whole maps (B, channels, side, side), finest first.
        grid: windows a side.

    Yields:
        Slices of images and of windows, and their stages (images, rows, side, channels).
    """
    side = stages[0].shape[-1]
    window = side // grid
    whole = [stage.permute(0, 2, 3, 1) for stage in stages]
    factors = [side // stage.shape[1] for stage in whole]
    # Not on other devices, in compiled graphs, nor where a slice's gradient is a whole map.
    on_cpu = stages[0].device.type == "cpu" and not torch.compiler.is_compiling()
    trained = torch.is_grad_enabled() and any(stage.requires_grad for stage in stages)
    divisible = side % grid == 0 and all(
        side % stage.shape[1] == 0 and window % factor == 0
        for stage, factor in zip(whole, factors, strict=True)
    )
    if trained or not (on_cpu and divisible):
        yield slice(None), slice(None), whole
        return
    steps = [window // factor for factor in factors]  # cells of a window, per stage
    numbers = sum(s[0, :step].numel() for s, step in zip(whole, steps, strict=True))
    rows = max(1, TILE_ELEMENTS // numbers)
    for image in range(len(whole[0])):
        for top in range(0, grid, rows):
            end = min(top + rows, grid)
            band = []
            for stage, step, factor in zip(whole, steps, factors, strict=True):
                border = int(factor > 1)
                near = torch.arange(top * step - border, end * step + border)
                band.append(stage[image : image + 1, near.clamp(0, stage.shape[1] - 1)])
            yield slice(image, image + 1), slice(top * grid, end * grid), band


def downscaled(stages: Sequence[Tensor], factor: int) -> list[Tensor]:
    """Stages of the concatenated map made `factor` times smaller, as the global view sees it.

    The whole map is downscaled bilinearly (corners not aligned), after its coarser stages were
    upsampled. A stage coarse enough that this reads only linear segments of its interpolation is
    itself the answer; any other one becomes a map of the new size.
    """
    side = stages[0].shape[-1]
    return [_downscaled_stage(stage, side, factor) for stage in stages]


def _downscaled_stage(stage: Tensor, side: int, factor: int) -> Tensor:
    cells = stage.shape[-1]
    if side % cells == 0 and (side // cells) % (2 * factor) == 0:
        return stage
    return resize(resize(stage, (side, side)), (side // factor, side // factor))

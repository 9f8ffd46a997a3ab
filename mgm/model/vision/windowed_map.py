"""Attention over windows of the ConvNeXt map for patch info mining, without upsampling the map.

Published mining upsamples the maps of all ConvNeXt stages to one size, concatenates them, and
applies a LayerNorm at every position: 2,880 channels each for the published ConvNeXt. Because
upsampling is linear, scores and weighted sums can be computed at the low resolution of each stage
instead, and only one number per position is upsampled; the result is the same up to rounding.

Shape legend: as in `patch_info_mining`. A *cell* is a position of a stage's own low-resolution map.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor
from torch.nn import functional as F


class WindowedMap:
    """Windows of the upsampled, concatenated and layer-normalised map, in factored form.

    The constructor cuts each stage's low-resolution map into windows, and computes the mean and
    variance of every upsampled position for the LayerNorm. `scores` returns the products of
    queries with all positions, `mix` their weighted sums. The map itself is never built.

    Args:
        stages: (B, rows, side, channels), highest resolution first: whole maps, or a tile of rows.
        grid: windows per row of the map.
        eps: epsilon of the LayerNorm.
    """

    def __init__(self, stages: Sequence[Tensor], grid: int, eps: float) -> None:
        height, side = stages[0].shape[1:3]
        if side % grid:
            raise ValueError(f"a map of side {side} does not divide into {grid} windows a side")
        self.window = side // grid
        self.bounds = list(pairwise(accumulate((stage.shape[-1] for stage in stages), initial=0)))
        self.cells: list[Tensor] = []  # per stage (B, N, K, channels), minus the mean of channels
        self.upsample: list[Tensor | None] = []  # per stage (P, K) matrix; None: not upsampled
        means, energies = [], []
        for stage in stages:
            centred, mean = _centre(stage)
            # A tile has one row of neighbouring cells at each end, which is cropped afterwards.
            factor = side // mean.shape[2]
            border = max(0, (mean.shape[1] * factor - height) // 2)
            padded_height = height + 2 * border
            inner = slice(border, border + height)
            means.append(resize(mean.unsqueeze(1), (padded_height, side)).squeeze(1)[:, inner])
            vertical, horizontal = (
                LinearInterpolation(*sizes, mean)
                for sizes in ((mean.shape[1], padded_height), (mean.shape[2], side))
            )
            energies.append(_upsampled_energy(centred, vertical, horizontal)[:, inner])
            self._cut(centred, side, grid, border > 0)
        self.dtype = mean.dtype
        width = self.bounds[-1][1]
        shares = [(end - start) / width for start, end in self.bounds]
        mean = sum(share * stage_mean for share, stage_mean in zip(shares, means, strict=True))
        offsets = torch.stack(
            [stage_mean - mean for stage_mean in means], dim=-1
        )  # (B, S, S, stages)
        # Law of total variance: within stages plus between stage means, without cancellation.
        variance = sum(energies) / width + (offsets.square() @ offsets.new_tensor(shares))
        rstd = torch.rsqrt(variance + eps).unsqueeze(-1)
        self.rstd = _cut_positions(rstd, self.window).squeeze(-1)
        self.offsets = _cut_positions(offsets, self.window)  # (B, N, P, stages)

    def _cut(self, centred: Tensor, side: int, grid: int, has_border: bool) -> None:
        """Cut one stage (B, rows, s, channels) into windows, with the neighbouring cells."""
        factor = side // centred.shape[2]
        if factor > 1 and (side % centred.shape[2] or self.window % factor):
            # Window borders are not cell borders: upsample this stage.
            full = resize(centred.permute(0, 3, 1, 2), (side, side))
            centred, factor = full.permute(0, 2, 3, 1), 1
        if factor == 1:
            self.cells.append(_cut_positions(centred, self.window))
            self.upsample.append(None)
            return
        step = self.window // factor
        # Interpolation needs one more cell on each side; at the map's edge it replicates the last.
        ends = 0 if has_border else 1
        wide = F.pad(centred.permute(0, 3, 1, 2), (1, 1, ends, ends), mode="replicate")
        cells = wide.unfold(2, step + 2, step).unfold(3, step + 2, step)
        self.cells.append(cells.permute(0, 2, 3, 4, 5, 1).flatten(3, 4).flatten(1, 2))
        # The interpolation matrix of a window is the middle part of that of a larger map.
        rows = _interpolation(step + 2, (step + 2) * factor, centred)
        rows = rows[factor : factor + self.window]
        self.upsample.append(torch.kron(rows, rows))

    def scores(self, queries: Tensor) -> Tensor:
        """Dot products (B, N, P) of queries (B, N, H) with the normalised positions of windows."""
        parts = [queries[..., start:end] for start, end in self.bounds]
        totals = torch.stack([part.sum(-1, dtype=self.dtype) for part in parts], dim=-1)
        # Vector times matrix, not matrix times vector: ten times faster on a CPU for small sizes.
        scores = (totals.unsqueeze(-2) @ self.offsets.transpose(-1, -2)).squeeze(-2)
        for cells, upsample, part in zip(self.cells, self.upsample, parts, strict=True):
            row = part.to(cells.dtype).unsqueeze(-2)
            on_cells = (row @ cells.transpose(-1, -2)).squeeze(-2).to(self.dtype)
            scores = scores + (
                on_cells if upsample is None else on_cells @ upsample.T.to(self.dtype)
            )
        return scores * self.rstd

    def mix(self, attention: Tensor) -> Tensor:
        """Attention-weighted sums (B, N, H) of the normalised positions of windows.

        Args:
            attention: (B, N, P) weights.
        """
        weights = attention * self.rstd
        offsets = (weights.unsqueeze(-2) @ self.offsets).squeeze(-2)  # (B, N, stages)
        mixed = []
        for index, (cells, upsample) in enumerate(zip(self.cells, self.upsample, strict=True)):
            on_cells = weights if upsample is None else weights @ upsample.to(self.dtype)
            part = (on_cells.to(cells.dtype).unsqueeze(-2) @ cells).squeeze(-2)
            mixed.append(part.to(self.dtype) + offsets[..., index : index + 1])
        return torch.cat(mixed, dim=-1)


def _centre(stage: Tensor) -> tuple[Tensor, Tensor]:
    """Subtract the mean over channels from a map (B, rows, side, C); also returns the means."""
    precise = stage.to(_statistics_dtype(stage))
    mean = precise.mean(-1)
    return (precise - mean.unsqueeze(-1)).to(stage.dtype).contiguous(), mean


def resize(full: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation of (B, C, S, S) to (B, C, *size), align_corners=False as published."""
    return F.interpolate(full, size, mode="bilinear", align_corners=False)


def _interpolation(cells: int, positions: int, reference: Tensor) -> Tensor:
    """Matrix (positions, cells) of linear interpolation in one dimension, corners not aligned."""
    identity = torch.eye(
        cells, dtype=_statistics_dtype(reference), device=reference.device
    ).unsqueeze(0)
    return F.interpolate(identity, size=positions, mode="linear", align_corners=False)[0].T


class LinearInterpolation:
    """Linear interpolation along one dimension: two cells of each position, and their weights.

    This is the sparse form of the matrix of `_interpolation`. With the matrix, 0 times NaN would
    spread a NaN or an infinity to all positions; here it reaches only its neighbours.

    Attributes:
        first: (positions), the cell before the position.
        second: (positions), the cell after it; after the last one, the last.
        near: (positions), weight of the first.
        far: (positions), weight of the second.
    """

    def __init__(self, cells: int, positions: int, reference: Tensor) -> None:
        steps = (
            torch.arange(positions, dtype=_statistics_dtype(reference), device=reference.device)
            + 0.5
        )
        coordinate = (steps * (cells / positions) - 0.5).clamp(min=0)
        self.first = coordinate.long().clamp(max=cells - 1)
        self.second = (self.first + 1).clamp(max=cells - 1)
        self.far = torch.where(self.first == self.second, 0, coordinate - self.first)
        self.near = 1 - self.far


def _upsampled_energy(
    cells: Tensor, vertical: LinearInterpolation, horizontal: LinearInterpolation
) -> Tensor:
    """Squared norms over channels (B, S, S) of an upsampled map, from its cells (B, s, s, C).

    Each position interpolates four cells, so that its squared norm is a weighted sum of the cells'
    squared norms and of the dot products of neighbours: right, below, and both diagonals.
    """

    def product(first: Tensor, second: Tensor) -> Tensor:
        return (first.to(horizontal.far.dtype) * second.to(horizontal.far.dtype)).sum(-1)

    if len(horizontal.first) == cells.shape[2]:
        return product(cells, cells)
    left, right = cells[:, :, :-1], cells[:, :, 1:]
    diagonals = product(left[:, :-1], right[:, 1:]) + product(right[:, :-1], left[:, 1:])
    columns = _squared_line(
        product(cells, cells), product(cells[:, :-1], cells[:, 1:]), vertical, 1
    )
    neighbours = _squared_line(product(left, right), diagonals / 2, vertical, 1)
    return _squared_line(columns, neighbours, horizontal, 2)


def _squared_line(
    squares: Tensor, products: Tensor, interpolation: LinearInterpolation, dim: int
) -> Tensor:
    """Squared norms |near * a + far * b|^2 after interpolation along one dimension.

    Args:
        squares: |a|^2 of each cell; `cells` long along `dim`.
        products: dot product a * b of each cell and the next; one shorter.
        interpolation: interpolation from cells to positions.
        dim: 1 or 2 of (B, s, s).

    Returns:
        Squared norms, `positions` long along `dim`.
    """
    first, second = interpolation.first, interpolation.second
    near, far = (
        weight.unsqueeze(-1) if dim == 1 else weight
        for weight in (interpolation.near, interpolation.far)
    )
    products = F.pad(products, (0, 0, 0, 1) if dim == 1 else (0, 1))  # the last cell has no next
    return (
        near.square() * squares.index_select(dim, first)
        + far.square() * squares.index_select(dim, second)
        + 2 * near * far * products.index_select(dim, first)
    )


def _cut_positions(full: Tensor, window: int) -> Tensor:
    """Cut a map (B, rows, side, channels) into windows (B, N, positions, channels), row-major."""
    rows = full.unflatten(2, (-1, window)).unflatten(1, (-1, window))
    return rows.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _statistics_dtype(stage: Tensor) -> torch.dtype:
    """Dtype of statistics and interpolation weights: float32, or float64 for a float64 map."""
    return torch.float64 if stage.dtype == torch.float64 else torch.float32

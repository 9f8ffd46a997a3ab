"""The high-resolution map in windows, of which scores and mixtures are computed without the map.

Shape legend: as in `patch_info_mining`, whose docstring says why this is exact.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor
from torch.nn import functional as F


class WindowedMap:
    """The normalised high-resolution map, cut in windows, without the map itself.

    Args:
        stages: (B, rows, side, channels), finest first: whole maps, or a band of them.
        grid: windows a row.
        eps: of the normalisation.
    """

    def __init__(self, stages: Sequence[Tensor], grid: int, eps: float) -> None:
        height, side = stages[0].shape[1:3]
        if side % grid:
            raise ValueError(f"a map of side {side} does not divide into {grid} windows a side")
        self.window = side // grid
        self.bounds = list(pairwise(accumulate((stage.shape[-1] for stage in stages), initial=0)))
        self.cells: list[Tensor] = []  # per stage (B, N, K, channels), centred over channels
        self.upsample: list[Tensor | None] = []  # per stage (P, K); None where cells are positions
        means, energies = [], []
        for stage in stages:
            centred, mean = _centre(stage)
            # In a band, one row of cells more at each end; their positions are left out again.
            factor = side // mean.shape[2]
            beside = max(0, (mean.shape[1] * factor - height) // 2)
            tall = height + 2 * beside
            own = slice(beside, beside + height)
            means.append(resize(mean.unsqueeze(1), (tall, side)).squeeze(1)[:, own])
            vertical, across = (
                LinearInterpolation(*sizes, mean)
                for sizes in ((mean.shape[1], tall), (mean.shape[2], side))
            )
            energies.append(_upsampled_energy(centred, vertical, across)[:, own])
            self._cut(centred, side, grid, beside > 0)
        self.dtype = mean.dtype
        width = self.bounds[-1][1]
        shares = [(end - start) / width for start, end in self.bounds]
        mean = sum(share * of_stage for share, of_stage in zip(shares, means, strict=True))
        offsets = torch.stack([of_stage - mean for of_stage in means], dim=-1)  # (B, S, S, stages)
        # Variance within the stages plus variance between their means: no cancellation.
        variance = sum(energies) / width + (offsets.square() @ offsets.new_tensor(shares))
        rstd = torch.rsqrt(variance + eps).unsqueeze(-1)
        self.rstd = _cut_positions(rstd, self.window).squeeze(-1)
        self.offsets = _cut_positions(offsets, self.window)  # (B, N, P, stages)

    def _cut(self, centred: Tensor, side: int, grid: int, band: bool) -> None:
        """Cut one stage (B, rows, s, channels) in windows, with the neighbours they need."""
        factor = side // centred.shape[2]
        if factor > 1 and (side % centred.shape[2] or self.window % factor):
            # WindowedMap end inside cells here: upsample this stage as it is.
            full = resize(centred.permute(0, 3, 1, 2), (side, side))
            centred, factor = full.permute(0, 2, 3, 1), 1
        if factor == 1:
            self.cells.append(_cut_positions(centred, self.window))
            self.upsample.append(None)
            return
        step = self.window // factor
        # One cell more on each side, repeated at the map's edge as interpolation repeats it.
        ends = 0 if band else 1
        wide = F.pad(centred.permute(0, 3, 1, 2), (1, 1, ends, ends), mode="replicate")
        cells = wide.unfold(2, step + 2, step).unfold(3, step + 2, step)
        self.cells.append(cells.permute(0, 2, 3, 4, 5, 1).flatten(3, 4).flatten(1, 2))
        # A window's positions see their cells as the middle of any larger map does.
        rows = _interpolation(step + 2, (step + 2) * factor, centred)
        rows = rows[factor : factor + self.window]
        self.upsample.append(torch.kron(rows, rows))

    def scores(self, queries: Tensor) -> Tensor:
        """Queries (B, N, H) times the normalised positions of their windows, (B, N, P)."""
        parts = [queries[..., start:end] for start, end in self.bounds]
        totals = torch.stack([part.sum(-1, dtype=self.dtype) for part in parts], dim=-1)
        # Row vectors on the left: many small products run ten times faster so on a CPU.
        scores = (totals.unsqueeze(-2) @ self.offsets.transpose(-1, -2)).squeeze(-2)
        for cells, upsample, part in zip(self.cells, self.upsample, parts, strict=True):
            row = part.to(cells.dtype).unsqueeze(-2)
            on_cells = (row @ cells.transpose(-1, -2)).squeeze(-2).to(self.dtype)
            scores = scores + (
                on_cells if upsample is None else on_cells @ upsample.T.to(self.dtype)
            )
        return scores * self.rstd

    def mix(self, attention: Tensor) -> Tensor:
        """The attended mixture of normalised positions: (B, N, P) -> (B, N, H)."""
        weights = attention * self.rstd
        offsets = (weights.unsqueeze(-2) @ self.offsets).squeeze(-2)  # (B, N, stages)
        mixed = []
        for index, (cells, upsample) in enumerate(zip(self.cells, self.upsample, strict=True)):
            on_cells = weights if upsample is None else weights @ upsample.to(self.dtype)
            part = (on_cells.to(cells.dtype).unsqueeze(-2) @ cells).squeeze(-2)
            mixed.append(part.to(self.dtype) + offsets[..., index : index + 1])
        return torch.cat(mixed, dim=-1)


def _centre(stage: Tensor) -> tuple[Tensor, Tensor]:
    """A map (B, rows, side, C) less each position's mean, and those means (B, rows, side)."""
    exact = stage.to(_exact(stage))
    mean = exact.mean(-1)
    return (exact - mean.unsqueeze(-1)).to(stage.dtype).contiguous(), mean


def resize(full: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, S, S) -> (B, C, *size): bilinear, corners not aligned, as published."""
    return F.interpolate(full, size, mode="bilinear", align_corners=False)


def _interpolation(cells: int, positions: int, like: Tensor) -> Tensor:
    """The matrix (positions, cells) that upsamples one side: linear, corners not aligned."""
    identity = torch.eye(cells, dtype=_exact(like), device=like.device).unsqueeze(0)
    return F.interpolate(identity, size=positions, mode="linear", align_corners=False)[0].T


class LinearInterpolation:
    """The two cells next to each position of one side, and the weight of each.

    The same as the matrix of `_interpolation`, without its zeros: a NaN or an infinity stays where
    interpolation puts it.

    Attributes:
        first: (positions), the cell before the position.
        second: (positions), the cell after it; after the last one, the last.
        near: (positions), weight of the first.
        far: (positions), weight of the second.
    """

    def __init__(self, cells: int, positions: int, like: Tensor) -> None:
        steps = torch.arange(positions, dtype=_exact(like), device=like.device) + 0.5
        coordinate = (steps * (cells / positions) - 0.5).clamp(min=0)
        self.first = coordinate.long().clamp(max=cells - 1)
        self.second = (self.first + 1).clamp(max=cells - 1)
        self.far = torch.where(self.first == self.second, 0, coordinate - self.first)
        self.near = 1 - self.far


def _upsampled_energy(
    cells: Tensor, vertical: LinearInterpolation, across: LinearInterpolation
) -> Tensor:
    """Squared norms (B, S, S) of an upsampled map, from its cells (B, s, s, C).

    A position lies between two cells a side, so its squared norm is made of the cells' own squared
    norms and of the products of neighbours: to the right, below, and along both diagonals.
    """

    def product(first: Tensor, second: Tensor) -> Tensor:
        return (first.to(across.far.dtype) * second.to(across.far.dtype)).sum(-1)

    if len(across.first) == cells.shape[2]:
        return product(cells, cells)
    left, right = cells[:, :, :-1], cells[:, :, 1:]
    diagonals = product(left[:, :-1], right[:, 1:]) + product(right[:, :-1], left[:, 1:])
    columns = _squared_line(
        product(cells, cells), product(cells[:, :-1], cells[:, 1:]), vertical, 1
    )
    neighbours = _squared_line(product(left, right), diagonals / 2, vertical, 1)
    return _squared_line(columns, neighbours, across, 2)


def _squared_line(own: Tensor, pairs: Tensor, taps: LinearInterpolation, dim: int) -> Tensor:
    """Squares of interpolated cells: of the cells' squares and of each one's product with the next.

    Args:
        own: the cell with itself; `cells` long along `dim`.
        pairs: the cell with its neighbour; one shorter.
        taps: of the interpolation.
        dim: 1 or 2 of (B, s, s).

    Returns:
        `positions` long along `dim`.
    """
    near, far = ((w.unsqueeze(-1) if dim == 1 else w) for w in (taps.near, taps.far))
    pairs = F.pad(pairs, (0, 0, 0, 1) if dim == 1 else (0, 1))  # the last cell has no next one
    return (
        near.square() * own.index_select(dim, taps.first)
        + far.square() * own.index_select(dim, taps.second)
        + 2 * near * far * pairs.index_select(dim, taps.first)
    )


def _cut_positions(full: Tensor, window: int) -> Tensor:
    """A map (B, rows, side, channels) as windows (B, N, positions, channels), both row-major."""
    rows = full.unflatten(2, (-1, window)).unflatten(1, (-1, window))
    return rows.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _exact(like: Tensor) -> torch.dtype:
    """Of statistics and weights: float32, or the map's own where that is finer."""
    return torch.float64 if like.dtype == torch.float64 else torch.float32

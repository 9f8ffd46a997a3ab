"""Patch info mining: every low-resolution token looks into its window of high-resolution detail.

The published form normalises and projects every position of the concatenated, upsampled
ConvNeXt map. Two exact identities make that unnecessary:

1. The key and value projections are absorbed: the query moves to the channels of the map, and the
   value projection acts on the attended mixture (attention weights add up to one).
2. The concatenated map is never built: upsampling is linear, so scores and mixtures are computed on
   the cells of each stage, and only one number per position is upsampled. The LayerNorm of a
   concatenated vector needs its mean and variance alone, which come from each stage's means,
   energies and products of neighbouring cells.

`mgm/model/mining_reference.py` is the published form, short and slow, that the tests compare with.

Shape legend: B images, N tokens = side x side windows, C token width, H channels of all
stages, S side of the stage-0 map, P positions of a window = (S / side) squared, K its cells.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
    """

    def __init__(self, width: int, aux_dims: Sequence[int]) -> None:
        super().__init__()
        self.aux_dims = tuple(aux_dims)
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
        """
        queries = self.query(tokens) / math.sqrt(tokens.shape[-1])
        moved, shared = self.key(queries)
        with torch.autocast(tokens.device.type, enabled=False):
            windows = Windows(stages, math.isqrt(tokens.shape[1]), eps=self.key.norm.eps)
            attention = (windows.scores(moved) + shared.to(windows.dtype)).softmax(-1)
            mixture = windows.mix(attention)
        return self.value(mixture.to(tokens.dtype)).to(tokens.dtype)


class Windows:
    """The normalised high-resolution map, cut in windows, without the map itself."""

    def __init__(self, stages: Sequence[Tensor], grid: int, eps: float) -> None:
        side = stages[0].shape[-1]
        if side % grid:
            raise ValueError(f"a map of side {side} does not divide into {grid} windows a side")
        self.window = side // grid
        self.bounds = list(pairwise(accumulate((stage.shape[1] for stage in stages), initial=0)))
        self.cells: list[Tensor] = []  # per stage (B, N, K, channels), centred over channels
        self.upsample: list[Tensor | None] = []  # per stage (P, K); None where cells are positions
        means, energies = [], []
        for stage in stages:
            centred, mean = _centre(stage)
            means.append(_resize(mean.unsqueeze(1), side).squeeze(1))
            energies.append(_upsampled_energy(centred, Taps.of(mean.shape[-1], side, mean)))
            self._cut(centred, side, grid)
        self.dtype = mean.dtype
        width = self.bounds[-1][1]
        shares = [(end - start) / width for start, end in self.bounds]
        mean = sum(share * of_stage for share, of_stage in zip(shares, means, strict=True))
        offsets = torch.stack([of_stage - mean for of_stage in means], dim=-1)  # (B, S, S, stages)
        # Variance within the stages plus variance between their means: no cancellation.
        variance = sum(energies) / width + (offsets.square() @ offsets.new_tensor(shares))
        self.rstd = _cut_positions(torch.rsqrt(variance + eps).unsqueeze(-1), grid).squeeze(-1)
        self.offsets = _cut_positions(offsets, grid)  # (B, N, P, stages)

    def _cut(self, centred: Tensor, side: int, grid: int) -> None:
        """Cut one stage (B, s, s, channels) in windows, with the neighbours they need."""
        factor = side // centred.shape[1]
        if factor > 1 and (side % centred.shape[1] or self.window % factor):
            # Windows end inside cells here: upsample this stage as it is.
            centred, factor = _resize(centred.permute(0, 3, 1, 2), side).permute(0, 2, 3, 1), 1
        if factor == 1:
            self.cells.append(_cut_positions(centred, grid))
            self.upsample.append(None)
            return
        step = self.window // factor
        # One cell more on each side, repeated at the map's edge as interpolation repeats it.
        near = torch.arange(-1, step + 1, device=centred.device)
        near = near + step * torch.arange(grid, device=centred.device).unsqueeze(-1)
        near = near.clamp(0, centred.shape[1] - 1)  # (grid, step + 2)
        cells = centred[:, near[:, None, :, None], near[None, :, None, :]]
        self.cells.append(cells.flatten(3, 4).flatten(1, 2))
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
    """A map (B, C, S, S) as (B, S, S, C) less each position's mean, and those means (B, S, S)."""
    stage = stage.permute(0, 2, 3, 1)
    exact = stage.to(_exact(stage))
    mean = exact.mean(-1)
    return (exact - mean.unsqueeze(-1)).to(stage.dtype).contiguous(), mean


def _resize(full: Tensor, side: int) -> Tensor:
    """(B, C, S, S) -> (B, C, side, side): bilinear, corners not aligned, as published."""
    return F.interpolate(full, (side, side), mode="bilinear", align_corners=False)


def _interpolation(cells: int, positions: int, like: Tensor) -> Tensor:
    """The matrix (positions, cells) that upsamples one side: linear, corners not aligned."""
    identity = torch.eye(cells, dtype=_exact(like), device=like.device).unsqueeze(0)
    return F.interpolate(identity, size=positions, mode="linear", align_corners=False)[0].T


@dataclass(frozen=True)
class Taps:
    """What each position of one side is made of: a few cells, by index and weight.

    The same as the matrix of `_interpolation`, without its zeros: a NaN or an infinity stays where
    interpolation puts it.

    Attributes:
        cells: (positions, taps).
        weights: (positions, taps).
    """

    cells: Tensor
    weights: Tensor

    @classmethod
    def of(cls, cells: int, positions: int, like: Tensor) -> "Taps":
        """The two cells next to each position, first and second; there is none after the last."""
        steps = torch.arange(positions, dtype=_exact(like), device=like.device) + 0.5
        place = (steps * (cells / positions) - 0.5).clamp(min=0)
        first = place.long().clamp(max=cells - 1)
        second = (first + 1).clamp(max=cells - 1)
        weight = torch.where(first == second, 0, place - first)
        return cls(torch.stack([first, second], dim=-1), torch.stack([1 - weight, weight], dim=-1))

    def after(self, finer: "Taps") -> "Taps":
        """These taps of a side that is itself made by others."""
        weights = finer.weights[self.cells] * self.weights.unsqueeze(-1)
        return Taps(finer.cells[self.cells].flatten(1), weights.flatten(1))

    def apply(self, full: Tensor, dim: int) -> Tensor:
        """The positions made of the cells along a dimension of `full`."""
        shape = [-1 if axis == dim else 1 for axis in range(full.ndim)]
        parts = zip(self.cells.unbind(-1), self.weights.unbind(-1), strict=True)
        return sum(
            (full.index_select(dim, cell) * weight.view(shape) for cell, weight in parts),
            start=full.new_zeros(()),
        )


def _upsampled_energy(cells: Tensor, taps: Taps) -> Tensor:
    """Squared norms (B, S, S) of an upsampled map, from its cells (B, s, s, C).

    A position lies between two cells a side, so its squared norm is made of the cells' own squared
    norms and of the products of neighbours: to the right, below, and along both diagonals.
    """

    def product(first: Tensor, second: Tensor) -> Tensor:
        return (first.to(taps.weights.dtype) * second.to(taps.weights.dtype)).sum(-1)

    if len(taps.cells) == cells.shape[1]:
        return product(cells, cells)
    left, right = cells[:, :, :-1], cells[:, :, 1:]
    diagonals = product(left[:, :-1], right[:, 1:]) + product(right[:, :-1], left[:, 1:])
    columns = _squared_line(product(cells, cells), product(cells[:, :-1], cells[:, 1:]), taps, 1)
    neighbours = _squared_line(product(left, right), diagonals / 2, taps, 1)
    return _squared_line(columns, neighbours, taps, 2)


def _squared_line(own: Tensor, pairs: Tensor, taps: Taps, dim: int) -> Tensor:
    """Squares of interpolated cells: of the cells' squares and of each one's product with the next.

    Args:
        own: the cell with itself; `cells` long along `dim`.
        pairs: the cell with its neighbour; one shorter.
        taps: of the interpolation.
        dim: 1 or 2 of (B, s, s).

    Returns:
        `positions` long along `dim`.
    """
    first, second = taps.cells.unbind(-1)
    near, far = (weight.unsqueeze(-1) if dim == 1 else weight for weight in taps.weights.unbind(-1))
    pairs = F.pad(pairs, (0, 0, 0, 1) if dim == 1 else (0, 1))  # the last cell has no next one
    return (
        near.square() * own.index_select(dim, first)
        + far.square() * own.index_select(dim, second)
        + 2 * near * far * pairs.index_select(dim, first)
    )


def _cut_positions(full: Tensor, grid: int) -> Tensor:
    """A map (B, S, S, channels) as windows (B, N, positions, channels), both row-major."""
    rows = full.unflatten(2, (grid, -1)).unflatten(1, (grid, -1))  # (B, grid, w, grid, w, channels)
    return rows.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def downscaled(stages: Sequence[Tensor], factor: int) -> list[Tensor]:
    """Stages of the concatenated map made `factor` times smaller, as the global view sees it.

    The whole map is downscaled bilinearly (corners not aligned), after its coarser stages were
    upsampled. A stage coarse enough that this reads only straight pieces of its interpolation is
    itself the answer; any other one becomes a map of the new size.
    """
    side = stages[0].shape[-1]
    return [_downscaled_stage(stage, side, factor) for stage in stages]


def _downscaled_stage(stage: Tensor, side: int, factor: int) -> Tensor:
    cells = stage.shape[-1]
    if side % cells == 0 and (side // cells) % (2 * factor) == 0:
        return stage
    if cells == side:
        return _resize(stage, side // factor)
    taps = Taps.of(side, side // factor, stage).after(Taps.of(cells, side, stage))
    return taps.apply(taps.apply(stage, 2), 3).to(stage.dtype)


def _exact(like: Tensor) -> torch.dtype:
    """Of statistics and weights: float32, or the map's own where that is finer."""
    return torch.float64 if like.dtype == torch.float64 else torch.float32

"""Bilinear resizing whose every bit is fixed.

`torch.nn.functional.interpolate` rounds differently with the number of threads, the vector units of
the processor and the release. Released models saw fused multiply-adds; here they are written out,
in float64, so that an image gives the same tensor everywhere.
"""

import torch
from torch import Tensor


def resize_bilinear(view: Tensor, side: int) -> Tensor:
    """Resize float32 (..., height, width) to (..., side, side), without smoothing."""
    top, bottom, upper, lower = _neighbours(view.shape[-2], side)
    left, right, near, far = _neighbours(view.shape[-1], side)
    needed, rows = torch.cat([top, bottom]).unique(return_inverse=True)
    first, second = rows[:side], rows[side:]
    resized = view.new_empty(*view.shape[:-2], side, side)
    planes = view.reshape(-1, *view.shape[-2:])
    for plane, result in zip(planes, resized.view(-1, side, side), strict=True):  # stays in cache
        lines = plane[needed]
        lines = _blend(lines[:, left], near, lines[:, right], far)
        result.copy_(_blend(lines[first], upper[:, None], lines[second], lower[:, None]))
    return resized


def _neighbours(size: int, side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Indices of the two values that each result lies between, and their weights."""
    scale = torch.tensor(size, dtype=torch.float32) / side
    centres = torch.arange(side, dtype=torch.float64) + 0.5
    place = (scale.double() * centres - 0.5).float().clamp(min=0)
    first = place.long().clamp(max=size - 1)
    weight = (place - first).clamp(max=1)
    return first, (first + 1).clamp(max=size - 1), 1 - weight, weight


def _blend(x: Tensor, weight_x: Tensor, y: Tensor, weight_y: Tensor) -> Tensor:
    """x * weight_x + y * weight_y, the second product rounded, the first not."""
    return x.double().mul_(weight_x).add_(y * weight_y).float()

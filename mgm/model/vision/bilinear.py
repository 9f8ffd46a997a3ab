"""Bilinear resizing whose every bit is fixed.

`torch.nn.functional.interpolate` rounds differently with the number of threads, the vector units of
the processor and the release. Released models saw fused multiply-adds; here they are written out,
in float64, so that an image gives the same tensor everywhere.
"""

import torch
from torch import Tensor


def resize_bilinear(view: Tensor, side: int) -> Tensor:
    """Resize float32 (..., height, width) to (..., side, side), without smoothing."""
    if view.device.type == "mps":  # which has no float64
        return resize_bilinear(view.cpu(), side).to(view.device)
    top, bottom, upper, lower = _neighbours(view.shape[-2], side, view.device)
    left, right, near, far = _neighbours(view.shape[-1], side, view.device)
    needed, rows = torch.cat([top, bottom]).unique(return_inverse=True)
    first, second = rows[:side], rows[side:]
    resized = view.new_empty(*view.shape[:-2], side, side)
    planes, results = view.reshape(-1, *view.shape[-2:]), resized.view(-1, side, side)
    at_once = 1 if view.device.type == "cpu" else len(planes)  # one plane stays in cache
    for plane, result in zip(planes.split(at_once), results.split(at_once), strict=True):
        lines = plane.index_select(1, needed)
        lines = _blend(lines.index_select(2, left), near, lines.index_select(2, right), far)
        above, below = lines.index_select(1, first), lines.index_select(1, second)
        result.copy_(_blend(above, upper[:, None], below, lower[:, None]))
    return resized


def _neighbours(
    size: int, side: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Indices of the two values that each result lies between, and their weights."""
    scale = torch.tensor(size, dtype=torch.float32) / side
    centres = torch.arange(side, dtype=torch.float64) + 0.5
    position = (scale.double() * centres - 0.5).float().clamp(min=0)
    first = position.long().clamp(max=size - 1)
    weight = (position - first).clamp(max=1)
    second = (first + 1).clamp(max=size - 1)
    return first.to(device), second.to(device), (1 - weight).to(device), weight.to(device)


def _blend(x: Tensor, weight_x: Tensor, y: Tensor, weight_y: Tensor) -> Tensor:
    """x * weight_x + y * weight_y, the second product rounded, the first not."""
    return x.double().mul_(weight_x).add_(y * weight_y).float()

"""Bilinear resizing of images, bit-reproducible on every CPU and GPU.

`torch.nn.functional.interpolate` rounds differently with the number of threads, the vector units of
the processor and the release. Released models were trained with fused multiply-adds, which are
emulated here in float64, so that an image becomes the same tensor everywhere.
"""

import torch
from torch import Tensor

# torch runs an operation on fewer elements (its GRAIN_SIZE) on one thread. Starting and awaiting
# the others would take longer than so small a part of the work, most of all on a busy machine.
MAX_BLOCK_ELEMENTS = 2**15 - 1


def resize_bilinear(view: Tensor, side: int) -> Tensor:
    """Resize float32 (..., height, width) to (..., side, side), without antialiasing."""
    if view.device.type == "mps":  # no float64 on this device
        return resize_bilinear(view.cpu(), side).to(view.device)
    height, width = view.shape[-2:]
    top, bottom, top_weight, bottom_weight = _neighbours(height, side, view.device)
    left, right, left_weight, right_weight = _neighbours(width, side, view.device)
    planes = view.reshape(-1, height, width)
    resized = view.new_empty(len(planes), side, side)
    on_cpu = view.device.type == "cpu"
    planes_at_once = 1 if on_cpu else len(planes)
    rows_at_once = max(MAX_BLOCK_ELEMENTS // (2 * side), 1) if on_cpu else side
    for inputs, outputs in zip(
        planes.split(planes_at_once), resized.split(planes_at_once), strict=True
    ):
        for start in range(0, side, rows_at_once):
            rows = slice(start, start + rows_at_once)
            lines = inputs.index_select(1, torch.cat([top[rows], bottom[rows]]))
            lines = _blend(_columns(lines, left), left_weight, _columns(lines, right), right_weight)
            above, below = lines.chunk(2, dim=1)
            outputs[:, rows] = _blend(
                above, top_weight[rows, None], below, bottom_weight[rows, None]
            )
    return resized.view(*view.shape[:-2], side, side)


def _columns(lines: Tensor, indices: Tensor) -> Tensor:
    # On a CPU `index_select` and `lines[..., indices]` take two to five times as long.
    return lines.gather(2, indices.expand(*lines.shape[:2], -1))


def _neighbours(
    size: int, side: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Indices of the two inputs that each output is a blend of, and their weights."""
    scale = torch.tensor(size, dtype=torch.float32) / side
    centres = torch.arange(side, dtype=torch.float64) + 0.5
    position = (scale.double() * centres - 0.5).float().clamp(min=0)
    first = position.long().clamp(max=size - 1)
    weight = (position - first).clamp(max=1)
    second = (first + 1).clamp(max=size - 1)
    return first.to(device), second.to(device), (1 - weight).to(device), weight.to(device)


def _blend(x: Tensor, weight_x: Tensor, y: Tensor, weight_y: Tensor) -> Tensor:
    """x * weight_x + y * weight_y as a fused multiply-add: only the second product is rounded."""
    return x.double().mul_(weight_x).add_(y * weight_y).float()

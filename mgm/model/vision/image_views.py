"""What both towers see of an image, from its high-resolution view in uint8.

Bytes go to the device, a quarter of what float32 takes, and become numbers there.

Shape legend: S low-resolution side, A high-resolution side, both in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mgm.model.vision.bilinear import MAX_BLOCK_ELEMENTS, resize_bilinear


def blurred(pixels: Tensor, side: int) -> Tensor:
    """Images (..., 3, A, A) without detail finer than `side` pixels a side can show.

    They are reduced to that size and enlarged again, both bicubically, with the smoothing that
    keeps finer detail from folding back as coarser.
    """
    images = pixels.float()
    if images.device.type == "mps":  # not every release smooths there
        images = images.cpu()
    small = F.interpolate(images, (side, side), mode="bicubic", antialias=True)
    large = F.interpolate(small, pixels.shape[-2:], mode="bicubic")
    return large.to(pixels)


@dataclass(frozen=True)
class ImageViews:
    """How views are made; the fields are those of `MGMConfig`.

    Attributes:
        image_size: low-resolution side of a crop, S.
        image_grid: crops per side of the low-resolution view.
        image_global: whether a view of the whole image follows the crops of a grid.
        image_mean: of each colour channel in the low-resolution views, of values from 0 to 1.
        image_std: standard deviation of each colour channel in them.
        image_mean_aux: the same of the high-resolution view.
        image_std_aux: the same.
        exact: whether bilinear resizing is the same to the bit on every machine; else torch's.
    """

    image_size: int
    image_grid: int
    image_global: bool
    image_mean: Sequence[float]
    image_std: Sequence[float]
    image_mean_aux: Sequence[float]
    image_std_aux: Sequence[float]
    exact: bool = True

    @classmethod
    def of(cls, config: Any, exact: bool = True) -> "ImageViews":
        """Those of a config, or of anything else with these fields."""
        names = [name for name in cls.__annotations__ if name != "exact"]
        return cls(**{name: getattr(config, name) for name in names}, exact=exact)

    @torch.no_grad()
    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (images, 3, A, A) to float32, as the high-resolution tower sees it."""
        whole, mean, std = (
            torch.tensor(values, dtype=torch.float32, device=pixels.device).view(3, 1, 1)
            for values in ([255.0] * 3, self.image_mean_aux, self.image_std_aux)
        )
        normal = torch.empty(pixels.shape, dtype=torch.float32, device=pixels.device)
        images_at_once, rows_at_once = len(pixels), pixels.shape[-2]
        if pixels.device.type == "cpu":
            images_at_once = 1
            rows_at_once = max(MAX_BLOCK_ELEMENTS // (3 * pixels.shape[-1]), 1)
        for inputs, outputs in zip(
            pixels.split(images_at_once), normal.split(images_at_once), strict=True
        ):
            for rows, normal_rows in zip(
                inputs.split(rows_at_once, 2), outputs.split(rows_at_once, 2), strict=True
            ):
                # Divided by tensors: for a number, some devices multiply by its rounded inverse.
                normal_rows.copy_(rows).div_(whole).sub_(mean).div_(std)
        return normal

    @torch.no_grad()
    def low_resolution(self, high: Tensor) -> Tensor:
        """Crops (images, crops, 3, S, S) of normalised high-resolution views (images, 3, A, A).

        They are normalised for the low-resolution tower. Shrinking takes weighted means of pixels,
        so changing the normalisation afterwards is the same as before.
        """
        side, grid = self.image_size, self.image_grid
        view = self._shrink(high, side * grid)  # (images, 3, grid * S, grid * S)
        crops = view.unflatten(3, (grid, side)).unflatten(2, (grid, side))
        crops = crops.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
        # Compat: the global view is made from the low-resolution one, in a second step.
        if self.image_global and grid > 1:
            crops = torch.cat([crops, self._shrink(view, side).unsqueeze(1)], dim=1)
        return self._renormalise(crops)

    def _renormalise(self, crops: Tensor) -> Tensor:
        own = list(self.image_mean), list(self.image_std)
        aux = list(self.image_mean_aux), list(self.image_std_aux)
        if own == aux:
            return crops  # as published, to the last bit
        mean, std = (crops.new_tensor(values).view(3, 1, 1) for values in own)
        mean_aux, std_aux = (crops.new_tensor(values).view(3, 1, 1) for values in aux)
        return (crops * std_aux + mean_aux - mean) / std

    def _shrink(self, view: Tensor, side: int) -> Tensor:
        # Compat: no smoothing before shrinking.
        if self.exact:
            return resize_bilinear(view, side)
        return F.interpolate(view, (side, side), mode="bilinear", align_corners=False)

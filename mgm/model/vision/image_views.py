"""Inputs of both vision towers, computed on the device from the high-resolution image in uint8.

Only bytes are copied to the device, a quarter of the size in float32.

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
    """Images (..., 3, A, A) reduced to `side` pixels per side and enlarged again.

    Both steps are bicubic; reducing is anti-aliased.
    """
    images = pixels.float()
    if images.device.type == "mps":  # where not every release has anti-aliasing
        images = images.cpu()
    small = F.interpolate(images, (side, side), mode="bicubic", antialias=True)
    large = F.interpolate(small, pixels.shape[-2:], mode="bicubic")
    return large.to(pixels)


@dataclass(frozen=True)
class ImageViews:
    """Sizes and normalisation of both towers' inputs, as in `MGMConfig`.

    Attributes:
        image_size: low-resolution side of a crop, S.
        image_grid: crops per side of the low-resolution view.
        image_global: whether a view of the whole image follows the crops of a grid.
        image_mean: mean of each colour channel in the low-resolution views, from 0 to 1.
        image_std: standard deviation of each colour channel in them.
        image_mean_aux: mean of each colour channel in the high-resolution view.
        image_std_aux: standard deviation of each colour channel in it.
        exact: whether resizing is bit-identical on every machine; False: torch's own.
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
        """Take the fields of a config, or of any object that has them."""
        names = [name for name in cls.__annotations__ if name != "exact"]
        return cls(**{name: getattr(config, name) for name in names}, exact=exact)

    @torch.no_grad()
    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (images, 3, A, A) to the high-resolution tower's input in float32."""
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

        They are normalised for the low-resolution tower: resizing takes weighted means of pixels,
        so the normalisation can be changed after it.
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
        """Change the normalisation from the high-resolution tower's to the low-resolution one's."""
        statistics = list(self.image_mean), list(self.image_std)
        statistics_aux = list(self.image_mean_aux), list(self.image_std_aux)
        if statistics == statistics_aux:
            return crops  # bit-identical to the published code
        mean, std = (crops.new_tensor(values).view(3, 1, 1) for values in statistics)
        mean_aux, std_aux = (crops.new_tensor(values).view(3, 1, 1) for values in statistics_aux)
        return (crops * std_aux + mean_aux - mean) / std

    def _shrink(self, view: Tensor, side: int) -> Tensor:
        # Compat: no anti-aliasing.
        if self.exact:
            return resize_bilinear(view, side)
        return F.interpolate(view, (side, side), mode="bilinear", align_corners=False)

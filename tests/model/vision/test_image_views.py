"""Views of the towers from uint8 images. tests/data/test_image_processing_mgm.py compares with
golden data.
"""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mgm.model.vision.bilinear import resize_bilinear
from mgm.model.vision.image_views import ImageViews, blurred

MEANS = [0.48, 0.45, 0.40], [0.26, 0.27, 0.28]
SAME = dict(zip(("image_mean", "image_std"), MEANS, strict=True))
SAME |= {f"{name}_aux": values for name, values in SAME.items()}


def some_bytes(images, side):
    draw = np.random.default_rng(side)
    pixels = draw.integers(0, 256, (images, side, side, 3), dtype=np.uint8)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def test_bilinear_equals_torch():
    view = torch.randn(2, 3, 37, 64, generator=torch.Generator().manual_seed(0))
    for side in (8, 37, 50, 101):
        expected = F.interpolate(view, (side, side), mode="bilinear", align_corners=False)
        assert torch.allclose(resize_bilinear(view, side), expected, atol=1e-4)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_normalisation_equals_published(layout):
    pixels = some_bytes(3, 31).contiguous(memory_format=layout)
    mean, std = (np.array(values, dtype=np.float32) for values in MEANS)
    channels_last = pixels.permute(0, 2, 3, 1).numpy()
    expected = ((channels_last * (1 / 255)).astype(np.float32) - mean) / std
    normalised = ImageViews(28, 1, False, **SAME).normalise(pixels)
    assert normalised.dtype == torch.float32
    assert np.array_equal(normalised.permute(0, 2, 3, 1).numpy(), expected)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(("grid", "whole"), [(1, False), (2, False), (2, True), (3, True)])
def test_crops_of_several_images(grid, whole, exact):
    views = ImageViews(14, grid, whole, **SAME, exact=exact)
    high = views.normalise(some_bytes(2, 61))
    crops = views.low_resolution(high)
    view = F.interpolate(high, (14 * grid, 14 * grid), mode="bilinear")
    assert crops.shape == (2, grid**2 + whole, 3, 14, 14)
    for row in range(grid):
        for column in range(grid):
            expected = view[:, :, 14 * row : 14 * row + 14, 14 * column : 14 * column + 14]
            crop = crops[:, row * grid + column]
            torch.testing.assert_close(crop, expected, rtol=0, atol=1e-5)
    if whole:
        expected = F.interpolate(view, (14, 14), mode="bilinear")
        torch.testing.assert_close(crops[:, -1], expected, rtol=0, atol=1e-5)


def test_low_resolution_normalisation():
    other = SAME | {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    views = ImageViews(14, 2, True, **other)
    pixels = some_bytes(1, 28)
    same_size = views.low_resolution(views.normalise(pixels))[0, :4]
    expected = (pixels[0].float() / 255 - 0.5) / 0.5
    corners = torch.stack([expected[:, y : y + 14, x : x + 14] for y in (0, 14) for x in (0, 14)])
    torch.testing.assert_close(same_size, corners, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", [16, 28, 42])
def test_blur_removes_frequencies_above_its_resolution(side):
    steps = torch.arange(64) / 64
    slow = torch.sin(2 * torch.pi * 2 * steps).expand(1, 3, 64, 64)
    fine = torch.sin(torch.pi * (torch.arange(64) + 0.5)).expand(1, 3, 64, 64)  # every other pixel
    inner = (..., slice(8, -8), slice(8, -8))
    torch.testing.assert_close(blurred(slow, side)[inner], slow[inner], rtol=0, atol=0.05)
    assert blurred(fine, side)[inner].abs().max() < 0.15
    torch.testing.assert_close(
        blurred(slow + fine, side), blurred(slow, side) + blurred(fine, side)
    )


def test_blur_is_nearly_idempotent():
    noise = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    once = blurred(noise, 28)
    twice = blurred(once, 28)
    lost, again = (noise - once).norm(), (once - twice).norm()
    assert once.shape == noise.shape
    assert again < 0.25 * lost
    half = blurred(noise.bfloat16(), 28)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), once, rtol=0, atol=0.02)

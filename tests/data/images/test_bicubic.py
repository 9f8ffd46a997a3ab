import numpy as np
import pytest
from PIL import Image

from mgm.data.images.bicubic import Line, resize_in_line

BICUBIC = Image.Resampling.BICUBIC
GREY = (122, 116, 104)


def noise(width, height):
    """An image of extreme values, for which bicubic interpolation overshoots."""
    draw = np.random.default_rng(width * 1000 + height)
    return Image.fromarray(draw.integers(0, 2, (height, width, 3), dtype=np.uint8) * 255)


def resized(image, width, height):
    """Resized by Pillow: horizontally, then vertically."""
    return np.asarray(image.resize((width, image.height), BICUBIC).resize((width, height), BICUBIC))


@pytest.mark.parametrize("side", [7, 32, 65])
@pytest.mark.parametrize(("width", "height"), [(400, 1), (401, 6), (90, 30), (20, 3), (33, 32)])
@pytest.mark.parametrize("across", [True, False])
def test_padded_image(side, width, height, across):
    image = noise(width, height)
    start = (width - height) // 2
    if across:
        image = image.transpose(Image.Transpose.ROTATE_90)
    square = Image.new("RGB", (width, width), GREY)
    square.paste(image, (start, 0) if across else (0, start))
    ours = resize_in_line(image, Line(width, start, side, 0), across, side, GREY)
    assert np.array_equal(ours, resized(square, side, side))


@pytest.mark.parametrize("side", [7, 32, 65])
@pytest.mark.parametrize(("width", "height"), [(400, 1), (401, 6), (90, 30), (700, 70), (33, 32)])
@pytest.mark.parametrize("across", [True, False])
def test_cropped_image(side, width, height, across):
    image = noise(width, height)
    length = int(side * width / height)
    begin = (length - side) // 2
    if across:
        expected = resized(image, length, side)[:, begin : begin + side]
    else:
        image = image.transpose(Image.Transpose.ROTATE_90)
        expected = resized(image, side, length)[begin : begin + side]
    ours = resize_in_line(image, Line(width, 0, length, begin), across, side, GREY)
    assert np.array_equal(ours, expected)

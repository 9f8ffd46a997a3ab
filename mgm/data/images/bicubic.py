"""Pillow's bicubic resizing, bit for bit, of images with extreme aspect ratios.

An image of 60,000 x 2 pixels becomes a square of 3.6 billion pixels when it is padded, nearly all
of one colour; in "square" mode it is enlarged to as many pixels, of which nearly all are cropped.
Only the output pixels that are kept and show the image are computed.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import gcd

import numpy as np
from PIL import Image

PRECISION_BITS = 22  # fractional bits of weights; named as in Pillow's source


@dataclass(frozen=True)
class Line:
    """The position of an image within the padded line of pixels that is resized, along one axis.

    Attributes:
        length: number of input pixels.
        start: index of the image's first pixel.
        results: number of output pixels.
        begin: index of the first output pixel that is kept.
    """

    length: int
    start: int
    results: int
    begin: int


@dataclass(frozen=True)
class VisibleSpan:
    """The part of a padded line that determines all output pixels that show the image.

    Attributes:
        begin: index of its first input pixel.
        end: index after its last input pixel.
        results: number of output pixels that it is resized to.
        lead: number of these output pixels before the first that shows the image.
        first: index in the whole output line of the first pixel that shows the image.
        last: index in the whole output line after the last pixel that shows the image.
    """

    begin: int
    end: int
    results: int
    lead: int
    first: int
    last: int


@lru_cache(maxsize=4096)
def visible_span(long: int, short: int, side: int) -> VisibleSpan:
    """The span to resize for an image of `short` pixels, padded to `long` and resized to `side`.

    Weights have a period of long / gcd(long, side) pixels, except for rounding. They are compared
    as the integers that Pillow rounds them to; if any differs, the span is the whole line.
    """
    whole = VisibleSpan(0, long, side, 0, 0, side)
    indices, weights = _weights(Line(long, (long - short) // 2, side, 0), side)
    shown = np.flatnonzero(((weights != 0) & (indices >= 0) & (indices < short)).any(1))
    first, last = int(shown[0]), int(shown[-1]) + 1
    common = gcd(long, side)
    pixels, results = long // common, side // common  # pixels of one period
    taps = indices[first:last] + (long - short) // 2  # indices in the whole line
    before = min(first // results, int(taps[0, 0]) // pixels)
    touched = taps[weights[first:last] != 0].max() + 1
    after = max(-(-last // results), -(-int(touched) // pixels))
    span = VisibleSpan(
        before * pixels,
        min(after, common) * pixels,
        (min(after, common) - before) * results,
        first - before * results,
        first,
        last,
    )
    if span.results >= side:
        return whole
    line = Line(span.end - span.begin, 0, span.results, span.lead)
    own_indices, own = _weights(line, last - first)
    common_taps = min(own.shape[1], weights.shape[1])
    same = (
        np.array_equal(own[:, :common_taps], weights[first:last, :common_taps])
        and np.array_equal(own_indices[:, 0] + span.begin, taps[:, 0])
        and not own[:, common_taps:].any()
        and not weights[first:last, common_taps:].any()
    )
    return span if same else whole


def resize_in_line(
    image: Image.Image, line: Line, across: bool, side: int, colour: tuple[int, ...]
) -> np.ndarray:
    """Resize an RGB image to `side` along one axis, and as part of a line along the other.

    Args:
        image: without its padding.
        line: its position in the padded or enlarged image.
        across: whether the line is horizontal; else vertical.
        side: output pixels along both axes.
        colour: colour of the padding.

    Returns:
        uint8 (side, side, 3), equal to resizing the whole padded image and cropping it.
    """
    indices, weights = _weights(line, side)
    count = image.width if across else image.height
    inside = (weights != 0) & (indices >= 0) & (indices < count)  # (side, taps)
    seen = np.flatnonzero(inside.any(1))
    shown = slice(seen[0], seen[-1] + 1)
    first, last = int(indices[inside].min()), int(indices[inside].max()) + 1
    parts = indices[shown] - first, weights[shown], inside[shown], np.array(colour, dtype=np.int32)
    result = np.full((side, side, 3), colour, dtype=np.uint8)
    # Compat: horizontally, rounded, then vertically, as Pillow before 13 does for all images.
    if across:
        image = image.crop((first, 0, last, image.height))
        pixels = Image.fromarray(_blend(np.asarray(image).swapaxes(0, 1), *parts).swapaxes(0, 1))
        pixels = pixels.resize((pixels.width, side), Image.Resampling.BICUBIC)
        result[:, shown] = np.asarray(pixels)
    else:
        image = image.crop((0, first, image.width, last))
        image = image.resize((side, image.height), Image.Resampling.BICUBIC)
        result[shown] = _blend(np.asarray(image), *parts)
    return result


def _blend(
    pixels: np.ndarray,
    indices: np.ndarray,
    weights: np.ndarray,
    inside: np.ndarray,
    colour: np.ndarray,
) -> np.ndarray:
    """Resample uint8 (pixels, lines, 3) to (results, lines, 3); weights are (results, taps)."""
    # Start from a line of the padding colour, and add the image as the difference to it.
    change = np.ascontiguousarray(pixels) - colour.astype(np.int16)
    total = colour * weights.sum(1, dtype=np.int32)[:, None] + (1 << (PRECISION_BITS - 1))
    total = np.repeat(total[:, None], pixels.shape[1], axis=1)  # (results, lines, 3)
    for result, tap in np.argwhere(inside):
        total[result] += change[indices[result, tap]] * weights[result, tap, None]
    return (total >> PRECISION_BITS).clip(0, 255).astype(np.uint8)


def _weights(line: Line, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the input pixels of each output pixel, and their weights."""
    scale = line.length / line.results
    stretch = max(scale, 1.0)
    centres = (np.arange(line.begin, line.begin + count) + 0.5) * scale
    first = (centres - 2 * stretch + 0.5).astype(int).clip(min=0)
    last = (centres + 2 * stretch + 0.5).astype(int).clip(max=line.length)
    taps = first[:, None] + np.arange((last - first).max())  # (results, taps)
    # Cubic convolution of Keys (1981) with a = -0.5, in the order of Pillow's operations.
    x = np.abs((taps - centres[:, None] + 0.5) * (1.0 / stretch))
    near, far = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    weights = np.where(x < 1, near, np.where(x < 2, far, 0)) * (taps < last[:, None])
    weights /= weights.cumsum(1)[:, -1:]  # summed in order, as Pillow does
    whole = np.trunc(weights * (1 << PRECISION_BITS) + np.copysign(0.5, weights)).astype(np.int32)
    return taps - line.start, whole

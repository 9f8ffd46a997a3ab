"""Pillow's bicubic resizing, to the bit, of images that are mostly padding or mostly cut away.

An image of 60,000 x 2 pixels is a square of 3.6 billion pixels once it is padded, nearly all of one
colour; enlarged until its shorter side is long enough, nearly all of it is cut away. Here, along
the direction in which that happens, only those results are made that are wanted and show the image.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import gcd

import numpy as np
from PIL import Image

BITS = 22  # behind the point of Pillow's weights, which are whole numbers


@dataclass(frozen=True)
class Line:
    """Where an image lies, in one direction, in a line of pixels that is resized.

    Attributes:
        length: pixels of the line.
        start: how many of them come before the image.
        results: pixels of the resized line.
        begin: how many of them come before the first that is wanted.
    """

    length: int
    start: int
    results: int
    begin: int


@dataclass(frozen=True)
class Piece:
    """A piece of a padded line that makes, to the bit, all results that show the image.

    Attributes:
        begin: first pixel of the piece.
        end: pixel after its last.
        results: how many the piece is resized to.
        lead: how many of these come before those that count.
        first: which result of the line counts first.
        last: result after the last that counts.
    """

    begin: int
    end: int
    results: int
    lead: int
    first: int
    last: int


@lru_cache(maxsize=4096)
def shown_piece(long: int, short: int, side: int) -> Piece:
    """What has to be resized of an image of `short` pixels in a line of `long`, made `side` long.

    Weights repeat where pixels and results come out even. They are compared as the whole numbers
    that Pillow rounds them to; where one differs, or nothing can be left out, the line is whole.
    """
    whole = Piece(0, long, side, 0, 0, side)
    places, weights = _weights(Line(long, (long - short) // 2, side, 0), side)
    shown = np.flatnonzero(((weights != 0) & (places >= 0) & (places < short)).any(1))
    first, last = int(shown[0]), int(shown[-1]) + 1
    common = gcd(long, side)
    pixels, results = long // common, side // common  # of a period
    taps = places[first:last] + (long - short) // 2  # of the whole line
    before = min(first // results, int(taps[0, 0]) // pixels)
    touched = taps[weights[first:last] != 0].max() + 1
    after = max(-(-last // results), -(-int(touched) // pixels))
    piece = Piece(
        before * pixels,
        min(after, common) * pixels,
        (min(after, common) - before) * results,
        first - before * results,
        first,
        last,
    )
    if piece.results >= side:
        return whole
    line = Line(piece.end - piece.begin, 0, piece.results, piece.lead)
    own_places, own = _weights(line, last - first)
    common_taps = min(own.shape[1], weights.shape[1])
    same = (
        np.array_equal(own[:, :common_taps], weights[first:last, :common_taps])
        and np.array_equal(own_places[:, 0] + piece.begin, taps[:, 0])
        and not own[:, common_taps:].any()
        and not weights[first:last, common_taps:].any()
    )
    return piece if same else whole


def resize_in_line(
    image: Image.Image, line: Line, across: bool, side: int, colour: tuple[int, ...]
) -> np.ndarray:
    """Resize an RGB image to `side` in one direction, and as part of a line in the other.

    Args:
        image: a part of the whole picture.
        line: where it lies in that.
        across: whether lines go from left to right; else from top to bottom.
        side: wanted results, in both directions.
        colour: of the rest of the picture.

    Returns:
        uint8 (side, side, 3), as if the whole picture had been resized and then cut.
    """
    places, weights = _weights(line, side)
    count = image.width if across else image.height
    inside = (weights != 0) & (places >= 0) & (places < count)  # (side, taps)
    seen = np.flatnonzero(inside.any(1))
    shown = slice(seen[0], seen[-1] + 1)
    first, last = int(places[inside].min()), int(places[inside].max()) + 1
    parts = places[shown] - first, weights[shown], inside[shown], np.array(colour, dtype=np.int32)
    result = np.full((side, side, 3), colour, dtype=np.uint8)
    # Compat: across, rounded, and then down, as Pillow did for every image before release 13.
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
    places: np.ndarray,
    weights: np.ndarray,
    inside: np.ndarray,
    colour: np.ndarray,
) -> np.ndarray:
    """uint8 (pixels, lines, 3) to (results, lines, 3); the other three are (results, taps)."""
    # As if the whole line were of that colour; the image comes in as the difference to it.
    change = np.ascontiguousarray(pixels) - colour.astype(np.int16)
    total = colour * weights.sum(1, dtype=np.int32)[:, None] + (1 << (BITS - 1))
    total = np.repeat(total[:, None], pixels.shape[1], axis=1)  # (results, lines, 3)
    for result, tap in np.argwhere(inside):
        total[result] += change[places[result, tap]] * weights[result, tap, None]
    return (total >> BITS).clip(0, 255).astype(np.uint8)


def _weights(line: Line, count: int) -> tuple[np.ndarray, np.ndarray]:
    """What each result is made of: places of pixels, from the image's first, and their weights."""
    scale = line.length / line.results
    stretch = max(scale, 1.0)
    centres = (np.arange(line.begin, line.begin + count) + 0.5) * scale
    first = (centres - 2 * stretch + 0.5).astype(int).clip(min=0)
    last = (centres + 2 * stretch + 0.5).astype(int).clip(max=line.length)
    taps = first[:, None] + np.arange((last - first).max())  # (results, taps)
    # The cubic convolution of Keys (1981) with a = -0.5, in the order of Pillow's operations.
    x = np.abs((taps - centres[:, None] + 0.5) * (1.0 / stretch))
    near, far = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    weights = np.where(x < 1, near, np.where(x < 2, far, 0)) * (taps < last[:, None])
    weights /= weights.cumsum(1)[:, -1:]  # summed in order, as Pillow does
    whole = np.trunc(weights * (1 << BITS) + np.copysign(0.5, weights)).astype(np.int32)
    return taps - line.start, whole

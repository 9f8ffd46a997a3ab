"""Backgrounds of scenes: plain, gradient, blurred blobs of colour, grain, or a photograph."""

from random import Random
from typing import Literal, get_args

import numpy as np
from PIL import Image

from playground.colors import Color
from playground.photo_library import Photos
from playground.sample import Split

Kind = Literal["plain", "gradient", "blobs", "grain"]
PHOTO_SHARE = 0.35  # share of surroundings that are photographs, if photographs are given
KINDS: tuple[Kind, ...] = get_args(Kind)


def draw_background(
    size: tuple[int, int], color: Color, rng: Random, kind: Kind, depth: int = 30
) -> Image.Image:
    """Draw an RGB image of `size` (width, height), its colours within `depth` levels of `color`."""
    if kind == "plain":
        return Image.new("RGB", size, color)
    cells = {"gradient": (2, 2), "blobs": (rng.randint(3, 7), rng.randint(3, 7)), "grain": (2, 2)}
    image = _spread(size, color, rng, depth, cells[kind])
    return add_grain(image, rng, rng.uniform(2, 7)) if kind == "grain" else image


def choose_background(
    size: tuple[int, int],
    color: Color,
    rng: Random,
    depth: int = 30,
    shares: tuple[int, ...] = (50, 20, 20, 10),
) -> Image.Image:
    """Draw a background of a random kind; `shares` are the weights of `KINDS`, in order."""
    kind = rng.choices(KINDS, shares)[0]
    return draw_background(size, color, rng, kind, depth)


def choose_surroundings(
    size: tuple[int, int],
    color: Color,
    rng: Random,
    split: Split,
    depth: int,
    photos: Photos | None,
) -> Image.Image:
    """Draw the surroundings of a plate: a background, or a crop of a photograph if given."""
    if photos is not None and rng.random() < PHOTO_SHARE:
        return photos.background(size, rng, split)
    return choose_background(size, color, rng, depth)


def add_grain(image: Image.Image, rng: Random, strength: float) -> Image.Image:
    """Add camera noise to an image; `strength` is its standard deviation in levels."""
    source = np.random.default_rng(rng.getrandbits(32))
    width, height = image.size
    noise = source.standard_normal((height, width, 1), dtype=np.float32) * strength
    levels = np.asarray(image, dtype=np.float32) + noise
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


def _spread(
    size: tuple[int, int], color: Color, rng: Random, depth: int, cells: tuple[int, int]
) -> Image.Image:
    coarse = Image.new("RGB", cells)
    coarse.putdata(
        [
            tuple(min(255, max(0, level + rng.randint(-depth, depth))) for level in color)
            for _ in range(cells[0] * cells[1])
        ]
    )
    return coarse.resize(size, Image.Resampling.BICUBIC)

"""Dense targets: which character, thing and colour stands where in a drawn image.

Everything is laid out in the model's frame: the image padded to a square and resized to 384 pixels.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mgm.data.image_processing_mgm import MGMImageProcessor
from playground.colors import COLORS
from playground.emoji import EMOJI
from playground.scenes import Sample
from playground.shapes import SHAPES

FRAME = 384  # pixels per side
CELL = 32  # pixels per side of what one image token stands for
SIDE = FRAME // CELL  # cells
CHARACTERS = tuple(chr(code) for code in range(33, 127))
CHARACTER_ID = {character: index + 1 for index, character in enumerate(CHARACTERS)}  # 0: none
THINGS = (*SHAPES, *EMOJI, "bar", "box", "sign")
THING_IDS = {label: index + 1 for index, label in enumerate(THINGS)}  # 0: nothing
COLOR_IDS = {label: index + 1 for index, label in enumerate(COLORS)}
HEIGHT_STEPS = 7
VIEW = MGMImageProcessor(image_size=14 * SIDE, image_size_aux=FRAME)  # pads and resizes


@dataclass(frozen=True)
class DenseTargets:
    """One image in the frame, with what stands where.

    image: (384, 384, 3) uint8.
    characters: (48, 96), cells of 8 rows and 4 columns of pixels: id of the character whose middle
        lies there, as high as its line.
    heights: (48, 96), of those characters: 1 for about 9 pixels, one more for every factor of 1.4;
        0 where there is none.
    before: (48, 96), id of the character that stands before it in the same word; 0 at its start.
    words: (48, 96), number of the word that the character is of, from 1.
    things, colors: (24, 24) of 16-pixel cells, id of the smallest thing that covers the centre.
    middles: (12, 12, 2) of 32-pixel cells, thing and colour of the smallest thing whose middle
        lies there; 0 where there is none.
    """

    image: np.ndarray
    characters: np.ndarray
    heights: np.ndarray
    before: np.ndarray
    words: np.ndarray
    things: np.ndarray
    colors: np.ndarray
    middles: np.ndarray


@dataclass(frozen=True)
class Placement:
    """Where an image's pixels come to lie in the frame: shifted, then scaled."""

    scale: float
    left: int
    top: int

    def x(self, x: float) -> float:
        """Pixels from the left of the image to pixels from the left of the frame."""
        return (x + self.left) * self.scale

    def y(self, y: float) -> float:
        """Pixels from the top of the image to pixels from the top of the frame."""
        return (y + self.top) * self.scale

    def cell(self, x: float, y: float) -> tuple[int, int]:
        """Row and column of the cell in which a point of the image lies."""
        return int(self.y(y) // CELL), int(self.x(x) // CELL)


def placement(image: Image.Image) -> Placement:
    """How an image is padded to a square and resized."""
    side = max(image.size)
    return Placement(FRAME / side, (side - image.width) // 2, (side - image.height) // 2)


def dense_targets(sample: Sample, index: int) -> DenseTargets:
    """Targets of image `index` of a drawn sample; labels that have no id count as nothing."""
    image = sample.images[index]
    transform = placement(image)
    characters = np.zeros((FRAME // 8, FRAME // 4), np.int64)
    heights, before, words = (np.zeros_like(characters) for _ in range(3))
    last, word = None, 0
    for glyph in sample.glyphs[index]:
        word += not glyph.follows
        x, y = transform.x((glyph.x0 + glyph.x1) / 2), transform.y(glyph.level)
        row, column = int(y // 8), int(x // 4)
        if 0 <= row < FRAME // 8 and 0 <= column < FRAME // 4:
            characters[row, column] = CHARACTER_ID.get(glyph.char, 0)
            heights[row, column] = height_step((glyph.y1 - glyph.y0) * transform.scale)
            words[row, column] = word
            if last and glyph.follows:
                before[row, column] = CHARACTER_ID.get(last.char, 0)
        last = glyph
    things = np.zeros((FRAME // 16, FRAME // 16), np.int64)
    colors = np.zeros_like(things)
    middles = np.zeros((SIDE, SIDE, 2), np.int64)
    by_area = sorted(
        sample.objects[index], key=lambda t: (t.x1 - t.x0) * (t.y1 - t.y0), reverse=True
    )
    centers = np.arange(FRAME // 16) * 16 + 8
    for thing in by_area:
        x0, x1, y0, y1 = (
            *map(transform.x, (thing.x0, thing.x1)),
            *map(transform.y, (thing.y0, thing.y1)),
        )
        ids = THING_IDS.get(thing.label, 0), COLOR_IDS.get(thing.color or "", 0)
        middles[transform.cell((thing.x0 + thing.x1) / 2, (thing.y0 + thing.y1) / 2)] = ids
        columns = np.flatnonzero((centers >= x0 - 4) & (centers <= x1 + 4))
        rows = np.flatnonzero((centers >= y0 - 4) & (centers <= y1 + 4))
        if rows.size and columns.size:
            things[np.ix_(rows, columns)], colors[np.ix_(rows, columns)] = ids
    shown = VIEW.high_resolution(image)
    return DenseTargets(shown, characters, heights, before, words, things, colors, middles)


def nothing() -> DenseTargets:
    """Targets of a black image."""
    characters, things = np.zeros((FRAME // 8, FRAME // 4), int), np.zeros((FRAME // 16,) * 2, int)
    image = np.zeros((FRAME, FRAME, 3), np.uint8)
    middles = np.zeros((SIDE, SIDE, 2), int)
    return DenseTargets(image, *[characters] * 4, things, things, middles)


def height_step(height: float) -> int:
    """A height in pixels as a step from 1 to `HEIGHT_STEPS`."""
    return max(1, min(HEIGHT_STEPS, 1 + round(math.log(max(height, 1) / 9, 1.4))))


def slots(grid: np.ndarray, cell_rows: int, cell_columns: int) -> np.ndarray:
    """Cut a (rows, columns) grid to cells: (cells down, cells across, cell_rows * cell_columns)."""
    rows, columns = grid.shape[-2] // cell_rows, grid.shape[-1] // cell_columns
    cut = grid.reshape(*grid.shape[:-2], rows, cell_rows, columns, cell_columns)
    cut = np.moveaxis(cut, -3, -2)
    return cut.reshape(*grid.shape[:-2], rows, columns, cell_rows * cell_columns)

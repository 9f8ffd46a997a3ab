"""Dense targets: characters, objects and colours of a drawn image with their positions.

Positions are in the model's frame: the image padded to a square and resized to 384 pixels.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mgm.data.image_processing_mgm import MGMImageProcessor
from playground.cap_heights import FRAME as UNITS
from playground.colors import COLORS
from playground.emoji import EMOJI
from playground.photo_library import listed_photos
from playground.scenes import Glyph, Sample
from playground.shapes import SHAPES

FRAME = 384  # pixels per side
CELL = 32  # pixels per side of the cell of an image token
SIDE = FRAME // CELL  # cells per side
CHARACTERS = tuple(chr(code) for code in range(33, 127))
CHARACTER_ID = {character: index + 1 for index, character in enumerate(CHARACTERS)}  # 0: none
PHOTO_NAMES = tuple(name for _, name, _ in listed_photos())
THINGS = tuple(dict.fromkeys((*SHAPES, *EMOJI, "bar", "box", "sign", *PHOTO_NAMES)))
THING_IDS = {label: index + 1 for index, label in enumerate(THINGS)}  # 0: nothing
COLOR_IDS = {label: index + 1 for index, label in enumerate(COLORS)}
HEIGHT_STEPS = 8
MIN_HEIGHT = 6.0  # cap height in pixels of step 1; steps grow by a factor of 1.4
LINE_GAP = 8.0  # minimum line pitch in pixels
VIEW = MGMImageProcessor(image_size=14 * SIDE, image_size_aux=FRAME)  # pads and resizes


@dataclass(frozen=True)
class DenseTargets:
    """An image in the frame, with its characters and objects.

    Arrays of characters have equal length and are in drawing order.

    image: (384, 384, 3) uint8.
    x, y: centre of each character, in pixels; y is the vertical centre of its line's capitals.
    characters: ids of `CHARACTER_ID`.
    heights: `height_step` of the cap height of its text.
    caps: this cap height, in units.
    before: id of the preceding character of the word; 0 at its start.
    words: index of the word of the character.
    things, colors: (24, 24) of 16-pixel cells, ids of the smallest object that covers the centre.
    middles: (12, 12, 2) of 32-pixel cells, ids of the label and colour of the smallest object with
        its centre in the cell; 0: none.
    """

    image: np.ndarray
    x: np.ndarray
    y: np.ndarray
    characters: np.ndarray
    heights: np.ndarray
    caps: np.ndarray
    before: np.ndarray
    words: np.ndarray
    things: np.ndarray
    colors: np.ndarray
    middles: np.ndarray

    def cells(self, size: int) -> np.ndarray:
        """Row-major index of each character's cell, for cells of `size` pixels per side."""
        return (self.y // size).astype(int) * (FRAME // size) + (self.x // size).astype(int)


@dataclass(frozen=True)
class FrameTransform:
    """Transform from image pixels to frame pixels: shift, then scale."""

    scale: float
    left: int
    top: int

    def x(self, x: float) -> float:
        """Convert a horizontal position in the image to one in the frame."""
        return (x + self.left) * self.scale

    def y(self, y: float) -> float:
        """Convert a vertical position in the image to one in the frame."""
        return (y + self.top) * self.scale

    def cell(self, x: float, y: float) -> tuple[int, int]:
        """Row and column of the cell that contains a point of the image."""
        return int(self.y(y) // CELL), int(self.x(x) // CELL)


def frame_transform(image: Image.Image) -> FrameTransform:
    """Transform of an image that is padded to a square and resized."""
    side = max(image.size)
    return FrameTransform(FRAME / side, (side - image.width) // 2, (side - image.height) // 2)


def dense_targets(sample: Sample, index: int) -> DenseTargets:
    """Compute the targets of image `index` of a drawn sample; labels without an id get id 0."""
    image = sample.images[index]
    transform = frame_transform(image)
    rows = np.array(list(_characters(sample.glyphs[index], transform)), float).reshape(-1, 7)
    x, y, caps, *numbers = rows.T
    caps = caps * UNITS / max(image.size)
    characters, heights, before, words = (column.astype(np.int64) for column in numbers)
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
    return DenseTargets(
        shown, x, y, characters, heights, caps, before, words, things, colors, middles
    )


def _characters(
    glyphs: Sequence[Glyph], transform: FrameTransform
) -> Iterator[tuple[float, float, float, int, int, int, int]]:
    """Iterate over the characters that have an id and are inside the frame.

    Yields:
        x, y, cap height in image pixels, id, height step, id of the preceding character, word.
    """
    last: Glyph | None = None
    word = 0
    for glyph in glyphs:
        word += not glyph.follows
        x, y = transform.x((glyph.x0 + glyph.x1) / 2), transform.y(glyph.level)
        character = CHARACTER_ID.get(glyph.char, 0)
        if character and 0 <= x < FRAME and 0 <= y < FRAME:
            height = height_step(glyph.cap * transform.scale)
            before = CHARACTER_ID.get(last.char, 0) if last and glyph.follows else 0
            yield x, y, glyph.cap, character, height, before, word
        last = glyph


def empty_targets() -> DenseTargets:
    """Targets of a black image."""
    none, things = np.zeros(0, np.int64), np.zeros((FRAME // 16, FRAME // 16), np.int64)
    image = np.zeros((FRAME, FRAME, 3), np.uint8)
    middles = np.zeros((SIDE, SIDE, 2), np.int64)
    return DenseTargets(image, *[none] * 7, things, things, middles)


def height_step(height: float) -> int:
    """Quantise a cap height in pixels to a step from 1 to `HEIGHT_STEPS`."""
    steps = round(math.log(max(height, 1) / MIN_HEIGHT, 1.4))
    return max(1, min(HEIGHT_STEPS, 1 + steps))


def cell_characters(targets: DenseTargets, size: int, slots: int) -> dict[str, np.ndarray]:
    """Characters of each cell of `size` pixels, in reading order.

    Returns:
        `characters`, `heights` and `before`, (cells, slots) each, 0 in empty slots. Characters
        beyond `slots` are dropped.
    """
    cells = targets.cells(size)
    top_down = np.lexsort((targets.y, cells))
    line = np.empty(len(cells), int)
    line[top_down] = np.cumsum(np.diff(targets.y[top_down], prepend=0) > LINE_GAP)
    order = np.lexsort((targets.x, line, cells))
    cells = cells[order]
    slot = np.arange(len(cells)) - np.searchsorted(cells, cells)
    kept = slot < slots
    grids = {}
    for name in ("characters", "heights", "before"):
        grids[name] = np.zeros(((FRAME // size) ** 2, slots), np.int64)
        grids[name][cells[kept], slot[kept]] = getattr(targets, name)[order[kept]]
    return grids


def quarters(grid: np.ndarray) -> np.ndarray:
    """Values of each 2 x 2 block: (2 * rows, 2 * columns) -> (rows * columns, 4)."""
    rows, columns = len(grid) // 2, grid.shape[1] // 2
    return grid.reshape(rows, 2, columns, 2).swapaxes(1, 2).reshape(rows * columns, 4)

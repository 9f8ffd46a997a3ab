"""Dense targets: which character, thing and colour stands where in a drawn image.

Everything is laid out in the model's frame: the image padded to a square and resized to 256 pixels.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from playground.scenes import Sample

FRAME = 256  # pixels per side
CHARACTERS = tuple(chr(code) for code in range(33, 127))
CHARACTER_ID = {character: index + 1 for index, character in enumerate(CHARACTERS)}  # 0: none
PADDING_COLOR = (122, 116, 104)  # CLIP's mean colour, as the image pipeline pads


@dataclass(frozen=True)
class DenseTargets:
    """One image in the frame, with what stands where.

    image: (256, 256, 3) uint8. characters: (rows of 8 pixels, columns of 4) = (32, 64), id of the
    character whose centre lies there. large: the same with only characters at least 14 pixels high.
    things, colors: (16, 16) of 16-pixel cells, id of the smallest thing that covers the centre.
    """

    image: np.ndarray
    characters: np.ndarray
    large: np.ndarray
    things: np.ndarray
    colors: np.ndarray


def frame_image(image: Image.Image) -> tuple[Image.Image, float, int, int]:
    """Pad to a square with the mean colour and resize; also scale and offsets of the old pixels."""
    side = max(image.size)
    left, top = (side - image.width) // 2, (side - image.height) // 2
    if image.size != (side, side):
        square = Image.new("RGB", (side, side), PADDING_COLOR)
        square.paste(image, (left, top))
        image = square
    if side != FRAME:
        image = image.resize((FRAME, FRAME), Image.Resampling.BICUBIC)
    return image, FRAME / side, left, top


def dense_targets(
    sample: Sample, index: int, thing_ids: dict[str, int], color_ids: dict[str, int]
) -> DenseTargets:
    """Targets of image `index` of a drawn sample; labels that have no id count as nothing."""
    image, scale, left, top = frame_image(sample.images[index])
    characters = np.zeros((32, 64), np.int64)
    large = np.zeros((32, 64), np.int64)
    for glyph in sample.glyphs[index]:
        x = ((glyph.x0 + glyph.x1) / 2 + left) * scale
        y = ((glyph.y0 + glyph.y1) / 2 + top) * scale
        row, column = int(y // 8), int(x // 4)
        if 0 <= row < 32 and 0 <= column < 64:
            identity = CHARACTER_ID.get(glyph.char, 0)
            characters[row, column] = identity
            if (glyph.y1 - glyph.y0) * scale >= 14:
                large[row, column] = identity
    things = np.zeros((16, 16), np.int64)
    colors = np.zeros((16, 16), np.int64)
    by_area = sorted(
        sample.objects[index], key=lambda t: (t.x1 - t.x0) * (t.y1 - t.y0), reverse=True
    )
    centers = np.arange(16) * 16 + 8
    for thing in by_area:
        x0, x1 = (thing.x0 + left) * scale, (thing.x1 + left) * scale
        y0, y1 = (thing.y0 + top) * scale, (thing.y1 + top) * scale
        columns = np.flatnonzero((centers >= x0 - 4) & (centers <= x1 + 4))
        rows = np.flatnonzero((centers >= y0 - 4) & (centers <= y1 + 4))
        if rows.size and columns.size:
            cells = np.ix_(rows, columns)
            things[cells] = thing_ids.get(thing.label, 0)
            colors[cells] = color_ids.get(thing.color or "", 0)
    return DenseTargets(np.asarray(image), characters, large, things, colors)


def slots(grid: np.ndarray, cell_rows: int, cell_columns: int) -> np.ndarray:
    """Cut a (rows, columns) grid to cells: (cells down, cells across, cell_rows * cell_columns)."""
    rows, columns = grid.shape[-2] // cell_rows, grid.shape[-1] // cell_columns
    cut = grid.reshape(*grid.shape[:-2], rows, cell_rows, columns, cell_columns)
    cut = np.moveaxis(cut, -3, -2)
    return cut.reshape(*grid.shape[:-2], rows, columns, cell_rows * cell_columns)

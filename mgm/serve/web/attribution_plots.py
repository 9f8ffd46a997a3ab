"""Plots of an answer's attribution: heat map of an image, window of a visual token.

Coordinates are pixels of the high-resolution view, from its upper left corner.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from mgm.engine.attribution.mining_attribution import MiningAttribution

# Colour map: dark violet, red, orange, light yellow.
COLOURS = np.array([[20, 6, 54], [140, 30, 80], [240, 110, 40], [252, 250, 170]], dtype=np.float32)
TINT = 0.6  # weight of the colour map at the brightest pixel
DIM = 0.35  # brightness of a pixel without attention
WINDOW_SIZE = 512  # pixels per side of an enlarged window
BOX_COLOUR = (0, 190, 255)


@dataclass(frozen=True)
class VisualToken:
    """A visual token.

    Attributes:
        crop: index of its crop.
        index: index of the token in the crop.
        box: left, top, right and bottom of the pixels it covers.
    """

    crop: int
    index: int
    box: tuple[int, int, int, int]


def grid_side(detail: MiningAttribution, of_global: bool = False) -> int:
    """Tokens per side of the grid: of all crops together, or of the global view."""
    side = round(detail.mining.shape[1] ** 0.5)
    return side if of_global else side * detail.grid


def has_global(detail: MiningAttribution) -> bool:
    """Whether a global view of the image follows the crops."""
    return len(detail.mining) > detail.grid**2


def token_at(
    detail: MiningAttribution, row: int, column: int, of_global: bool = False
) -> VisualToken:
    """The token at a row and column of the grid, which are clamped to it."""
    count = grid_side(detail, of_global)
    row, column = (min(max(number, 0), count - 1) for number in (row, column))
    size = detail.view.width / count
    box = (round(column * size), round(row * size))
    box += (round((column + 1) * size), round((row + 1) * size))
    if of_global:
        return VisualToken(len(detail.mining) - 1, row * count + column, box)
    side = grid_side(detail, True)
    crop = (row // side) * detail.grid + column // side
    return VisualToken(crop, (row % side) * side + column % side, box)


def token_position(
    detail: MiningAttribution, x: float, y: float, of_global: bool = False
) -> tuple[int, int]:
    """Row and column of the token that covers a pixel."""
    size = detail.view.width / grid_side(detail, of_global)
    return int(y / size), int(x / size)


def heat_map(detail: MiningAttribution, uniform: bool = False) -> np.ndarray:
    """Attribution of each pixel: (side, side); without an answer all tokens weigh the same.

    Args:
        detail: mining attribution of the image.
        uniform: whether a token's weight is spread evenly over its window, without mining.
    """
    cells = detail.grid**2
    crops, tokens, positions = detail.mining.shape
    attention = np.full((crops, tokens), 1.0) if detail.answer is None else detail.answer
    window = round(positions**0.5)
    side = round(tokens**0.5)
    mining = np.full_like(detail.mining, 1 / positions) if uniform else detail.mining
    weighted = attention[..., None] * mining

    def as_map(crop_weights: np.ndarray, grid: int) -> np.ndarray:
        split = crop_weights.reshape(grid, grid, side, side, window, window)
        return split.transpose(0, 2, 4, 1, 3, 5).reshape(grid * side * window, -1)

    total = _enlarge(as_map(weighted[:cells], detail.grid), detail.view.width)
    if crops > cells:
        total = total + _enlarge(as_map(weighted[cells:], 1), detail.view.width)
    return total


def draw_overview(detail: MiningAttribution, token: VisualToken | None = None) -> Image.Image:
    """The view with its heat map, and the box of a token.

    Tokens with attention are tinted as a whole; the pixels that they mined are brighter.
    """
    level = 0.5 * _level(heat_map(detail)) + 0.5 * _level(heat_map(detail, uniform=True))
    image = _shade(np.asarray(detail.view), level)
    if token is not None:
        width = max(2, detail.view.width // 256)
        ImageDraw.Draw(image).rectangle(token.box, outline=BOX_COLOUR, width=width)
    return image


def draw_window(detail: MiningAttribution, token: VisualToken) -> Image.Image:
    """The window of a token, enlarged, with the heat map of its attention."""
    pixels = detail.view.crop(token.box).resize(
        (WINDOW_SIZE, WINDOW_SIZE), Image.Resampling.NEAREST
    )
    weights = detail.mining[token.crop, token.index]
    side = round(len(weights) ** 0.5)
    return _shade(np.asarray(pixels), _level(_enlarge(weights.reshape(side, side), WINDOW_SIZE)))


def describe_token(detail: MiningAttribution, token: VisualToken) -> str:
    """Caption of a token: its mining attention to the window, the answer's attention to it."""
    weights = detail.mining[token.crop, token.index]
    left, top, right, bottom = token.box
    side = round(len(weights) ** 0.5)
    ordered = np.argsort(-weights)
    share = np.cumsum(weights[ordered])
    enough = int(np.searchsorted(share, 0.5 * share[-1])) + 1
    row, column = divmod(int(ordered[0]), side)
    x = left + round((column + 0.5) * (right - left) / side)
    y = top + round((row + 0.5) * (bottom - top) / side)
    text = (
        f"This token covers {right - left} × {bottom - top} pixels and mined {len(weights)} "
        f"positions in them. Half of its attention is on {enough} position{'s' * (enough != 1)}, "
        f"the maximum ({weights[ordered[0]]:.1%}) at ({x}, {y})."
    )
    if detail.answer is None:
        return text
    attention = detail.answer[token.crop, token.index]
    rank = int((detail.answer > attention).sum()) + 1
    return (
        f"{text} The answer's attention to it is {attention:.2%}: rank {rank} of "
        f"{detail.answer.size} tokens, which have {detail.answer.sum():.1%} together."
    )


def _enlarge(values: np.ndarray, side: int) -> np.ndarray:
    """A map at another size, by nearest-neighbour interpolation."""
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize((side, side), Image.Resampling.NEAREST))


def _level(values: np.ndarray) -> np.ndarray:
    """Values scaled to 0..1, compressed: few positions have nearly all the attention."""
    scale = float(np.quantile(values, 0.999)) or float(values.max()) or 1.0
    return np.sqrt(np.clip(values / scale, 0, 1))


def _shade(pixels: np.ndarray, level: np.ndarray) -> Image.Image:
    """An image of pixels (side, side, 3): dark where the level is 0, tinted where it is 1."""
    steps = np.linspace(0, 1, len(COLOURS))
    tint = np.stack([np.interp(level, steps, COLOURS[:, c]) for c in range(3)], axis=-1)
    level = level[..., None]
    bright = pixels * (DIM + (1 - DIM) * level)
    mixed = bright * (1 - TINT * level) + tint * TINT * level
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))

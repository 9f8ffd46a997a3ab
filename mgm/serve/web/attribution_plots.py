"""Pictures of what was mined: who looked where in an image.

Sides and places are pixels of the high-resolution view, from its upper left corner.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from mgm.engine.attribution.mining_attribution import MiningAttribution

# From nothing to the most: dark violet, red, orange, light yellow.
COLOURS = np.array([[20, 6, 54], [140, 30, 80], [240, 110, 40], [252, 250, 170]], dtype=np.float32)
TINT = 0.6  # of a pixel that gave most
DIM = 0.35  # how much is left of a pixel that nobody looked at
ZOOM = 512  # pixels a side of an enlarged window
MARK = (0, 190, 255)


@dataclass(frozen=True)
class Token:
    """A visual token.

    Attributes:
        crop: its crop's number.
        place: its number in the crop.
        box: left, top, right and bottom of what it covers.
    """

    crop: int
    place: int
    box: tuple[int, int, int, int]


def grid_side(detail: MiningAttribution, of_global: bool = False) -> int:
    """Tokens from left to right: of all crops together, or of the global view."""
    side = round(detail.mining.shape[1] ** 0.5)
    return side if of_global else side * detail.grid


def has_global(detail: MiningAttribution) -> bool:
    """Whether a view of the whole image follows the crops."""
    return len(detail.mining) > detail.grid**2


def token_at(detail: MiningAttribution, row: int, column: int, of_global: bool = False) -> Token:
    """The token of a row and column of the grid; those outside count as the nearest."""
    count = grid_side(detail, of_global)
    row, column = (min(max(number, 0), count - 1) for number in (row, column))
    size = detail.view.width / count
    box = (round(column * size), round(row * size))
    box += (round((column + 1) * size), round((row + 1) * size))
    if of_global:
        return Token(len(detail.mining) - 1, row * count + column, box)
    side = grid_side(detail, True)
    crop = (row // side) * detail.grid + column // side
    return Token(crop, (row % side) * side + column % side, box)


def place_of(
    detail: MiningAttribution, x: float, y: float, of_global: bool = False
) -> tuple[int, int]:
    """Row and column of the token that covers a pixel."""
    size = detail.view.width / grid_side(detail, of_global)
    return int(y / size), int(x / size)


def heat(detail: MiningAttribution, spread: bool = False) -> np.ndarray:
    """How much each pixel gave: (side, side), the answer's attention or, without one, all mining.

    Args:
        detail: of the image.
        spread: whether a token's share is spread over its window evenly; else as the token looked.
    """
    cells = detail.grid**2
    crops, tokens, positions = detail.mining.shape
    shares = np.full((crops, tokens), 1.0) if detail.answer is None else detail.answer
    window = round(positions**0.5)
    side = round(tokens**0.5)
    looked = np.full_like(detail.mining, 1 / positions) if spread else detail.mining
    weighted = shares[..., None] * looked

    def as_map(part: np.ndarray, grid: int) -> np.ndarray:
        split = part.reshape(grid, grid, side, side, window, window)
        return split.transpose(0, 2, 4, 1, 3, 5).reshape(grid * side * window, -1)

    total = _enlarged(as_map(weighted[:cells], detail.grid), detail.view.width)
    if crops > cells:
        total = total + _enlarged(as_map(weighted[cells:], 1), detail.view.width)
    return total


def overview(detail: MiningAttribution, token: Token | None = None) -> Image.Image:
    """The view, bright where it gave most, and the box of a token.

    Tokens that got attention are tinted as a whole, and what they mined of it is bright.
    """
    level = 0.5 * _level(heat(detail)) + 0.5 * _level(heat(detail, spread=True))
    picture = _shaded(np.asarray(detail.view), level)
    if token is not None:
        width = max(2, detail.view.width // 256)
        ImageDraw.Draw(picture).rectangle(token.box, outline=MARK, width=width)
    return picture


def window(detail: MiningAttribution, token: Token) -> Image.Image:
    """What a token covers, enlarged, bright where the token looked."""
    piece = detail.view.crop(token.box).resize((ZOOM, ZOOM), Image.Resampling.NEAREST)
    weights = detail.mining[token.crop, token.place]
    side = round(len(weights) ** 0.5)
    return _shaded(np.asarray(piece), _level(_enlarged(weights.reshape(side, side), ZOOM)))


def description(detail: MiningAttribution, token: Token) -> str:
    """In words, where a token looked and who looked at it."""
    weights = detail.mining[token.crop, token.place]
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
        f"places of them. Half of it came from {enough} place{'s' * (enough != 1)}, most "
        f"({weights[ordered[0]]:.1%}) from the pixels around ({x}, {y})."
    )
    if detail.answer is None:
        return text
    own = detail.answer[token.crop, token.place]
    rank = int((detail.answer > own).sum()) + 1
    return (
        f"{text} The answer gave it {own:.2%} of its attention: number {rank} of "
        f"{detail.answer.size} tokens; all of them together got {detail.answer.sum():.1%}."
    )


def _enlarged(values: np.ndarray, side: int) -> np.ndarray:
    """A map at another size; each of its numbers stays a square."""
    picture = Image.fromarray(values.astype(np.float32))
    return np.asarray(picture.resize((side, side), Image.Resampling.NEAREST))


def _level(values: np.ndarray) -> np.ndarray:
    """Numbers from 0 to 1 that an eye tells apart: few places have nearly all the attention."""
    most = float(np.quantile(values, 0.999)) or float(values.max()) or 1.0
    return np.sqrt(np.clip(values / most, 0, 1))


def _shaded(pixels: np.ndarray, level: np.ndarray) -> Image.Image:
    """Pixels (side, side, 3), dark where the level is 0, tinted where it is 1."""
    steps = np.linspace(0, 1, len(COLOURS))
    tint = np.stack([np.interp(level, steps, COLOURS[:, c]) for c in range(3)], axis=-1)
    level = level[..., None]
    bright = pixels * (DIM + (1 - DIM) * level)
    mixed = bright * (1 - TINT * level) + tint * TINT * level
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))

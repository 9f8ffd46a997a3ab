"""Antialiased plain shapes."""

import math
from functools import lru_cache

from PIL import Image, ImageDraw

from playground.canvas import Canvas
from playground.colors import Color

SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "ring")
OVERSAMPLING = 4


def draw_shape(
    canvas: Canvas, shape: str, x: float, y: float, size: float, paint: Color, color: str | None
) -> None:
    """Draw a shape `size` units wide and high, centred on (x, y), and record it."""
    mask = _mask(shape, max(4, round(size * canvas.scale)))
    canvas.stamp(mask, paint, x - size / 2, y - size / 2)
    canvas.add_object(shape, color, x - size / 2, y - size / 2, x + size / 2, y + size / 2)


@lru_cache(maxsize=1024)
def _mask(shape: str, side: int) -> Image.Image:
    large = Image.new("L", (side * OVERSAMPLING, side * OVERSAMPLING))
    _paint(ImageDraw.Draw(large), shape, side * OVERSAMPLING - 1)
    return large.reduce(OVERSAMPLING)


def _paint(draw: ImageDraw.ImageDraw, shape: str, side: int) -> None:
    if shape == "circle":
        draw.ellipse((0, 0, side, side), 255)
    elif shape == "ring":
        draw.ellipse((0, 0, side, side), 255)
        edge = side * 0.27
        draw.ellipse((edge, edge, side - edge, side - edge), 0)
    elif shape == "square":
        edge = side * 0.06
        draw.rectangle((edge, edge, side - edge, side - edge), 255)
    elif shape == "heart":
        draw.ellipse((0, side * 0.05, side * 0.54, side * 0.57), 255)
        draw.ellipse((side * 0.46, side * 0.05, side, side * 0.57), 255)
        draw.polygon(
            [
                (side * x, side * y)
                for x, y in ((0.045, 0.44), (0.5, 0.3), (0.955, 0.44), (0.5, 0.98))
            ],
            255,
        )
    else:
        draw.polygon([(side * x, side * y) for x, y in _OUTLINES[shape]], 255)


def _star() -> list[tuple[float, float]]:
    corners = []
    for index in range(10):
        radius = 0.52 if index % 2 == 0 else 0.21
        angle = math.pi * (index / 5 - 0.5)
        corners.append((0.5 + radius * math.cos(angle), 0.53 + radius * math.sin(angle)))
    return corners


_OUTLINES = {
    "triangle": [(0.5, 0.03), (1.0, 0.94), (0.0, 0.94)],
    "diamond": [(0.5, 0.0), (0.88, 0.5), (0.5, 1.0), (0.12, 0.5)],
    "cross": [
        (0.33, 0),
        (0.67, 0),
        (0.67, 0.33),
        (1, 0.33),
        (1, 0.67),
        (0.67, 0.67),
        (0.67, 1),
        (0.33, 1),
        (0.33, 0.67),
        (0, 0.67),
        (0, 0.33),
        (0.33, 0.33),
    ],
    "star": _star(),
}

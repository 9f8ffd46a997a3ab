"""A canvas in frame units that records the box of every character and object drawn on it."""

import math
from random import Random
from typing import Literal

from PIL import Image, ImageDraw, ImageOps

from playground.cap_heights import FRAME, SHIPPED_HEIGHTS, SMALL_TEXT, CapHeights, choose_cap
from playground.colors import Color
from playground.faces import Face
from playground.fonts import font_with_cap
from playground.sample import DrawnObject, Glyph

ROTATION_BORDER = 2  # pixels added around an image before it is rotated
MIN_PITCH = 21.5  # units from line to line: one line of text per row of image tokens
MIN_STEP = 3.6  # units between the centres of small characters: at most 6 per image token


Anchor = Literal["left", "middle", "right"]


class Canvas:
    """An image whose longest side is `FRAME` units long, whatever its size in pixels.

    Methods take positions and sizes in units; recorded boxes are in pixels.

    Attributes:
        width, height: size in units.
        scale: pixels per unit.
        caps: allowed cap heights of its text.
        heights: cap height in units of each text drawn with a key.
        is_crowded: whether some text did not fit even at the smallest cap height.
    """

    def __init__(
        self,
        size: tuple[int, int],
        background: Image.Image | Color,
        scale: float | None = None,
        caps: CapHeights = SHIPPED_HEIGHTS,
    ) -> None:
        self.caps = caps
        self.scale = scale or max(size) / FRAME
        self.width, self.height = size[0] / self.scale, size[1] / self.scale
        if isinstance(background, Image.Image):
            self.image = background
        else:
            self.image = Image.new("RGB", size, background)
        self.draw = ImageDraw.Draw(self.image)
        self.glyphs: list[Glyph] = []
        self.objects: list[DrawnObject] = []
        self.heights: dict[str, float] = {}
        self.is_crowded = False

    @property
    def smallest_cap(self) -> float:
        """Smallest cap height, in units, that is legible in the stored image and in the frame."""
        return max(self.caps.low, self.caps.min_stored / self.scale)

    def choose_cap(self, rng: Random, usual: float, max_cap: float = math.inf) -> float:
        """Sample a cap height, log-uniform over the allowed range.

        Args:
            usual: maximum if `caps` has none.
            max_cap: maximum in any case; marks the canvas as crowded if it is too small to read.
        """
        low, high = self.smallest_cap, min(usual, max_cap)
        if self.caps.high is not None:
            high = min(self.caps.high, max_cap)
            self.is_crowded |= high < low
        return choose_cap(rng, low, max(low, high))

    def choose_title_cap(
        self, rng: Random, title: str, face: Face, cap: float, max_cap: float
    ) -> float:
        """Sample the cap height of a title: at least `cap`, that of the text below, if it fits.

        Args:
            max_cap: maximum, used only if `caps` has a maximum; marks the canvas as crowded if it
                is too small to read.
        """
        chosen = choose_cap(rng, cap, max(cap, 16))
        if self.caps.high is None:
            return chosen
        self.is_crowded |= max_cap < SMALL_TEXT
        widest = chosen * (self.width - 12) / self.text_width(title, face, chosen)
        return min(chosen, max_cap, widest)

    def text_width(self, text: str, face: Face, cap: float) -> float:
        """Advance width of a line of text, in units."""
        return self._starts(text, face, cap)[-1] / self.scale

    def _starts(self, text: str, face: Face, cap: float) -> list[float]:
        # Start of each character and end of the line, in pixels.
        sized = font_with_cap(face, cap * self.scale)
        return sized.spaced(text, MIN_STEP * self.scale) if cap < SMALL_TEXT else sized.starts(text)

    def fitting_cap(self, texts: list[str], face: Face, cap: float, width: float) -> float:
        """Largest cap height up to `cap` at which every text is at most `width` wide."""
        widest = max(self.text_width(text, face, cap) for text in texts)
        return cap if widest <= width else self.shrunk_cap(cap, width / widest * 0.98)

    def shrunk_cap(self, cap: float, factor: float) -> float:
        """Scale `cap` by `factor`, down to the smallest legible height (then crowded)."""
        if cap * factor < self.smallest_cap * 0.97:
            self.is_crowded = True
        return max(self.smallest_cap, cap * factor)

    def lowered_cap(self, cap: float, max_cap: float) -> float:
        """Limit `cap` to `max_cap`, but keep it legible.

        Marks the canvas as crowded if `max_cap` is too small to read and `caps` has a maximum.
        """
        self.is_crowded |= self.caps.high is not None and max_cap < self.smallest_cap
        return min(cap, max(self.smallest_cap, max_cap))

    def fitting_pitch(self, preferred: float, available: float) -> float:
        """Line pitch of at most `available`; marks the canvas as crowded if lines would touch."""
        if available < MIN_PITCH:
            self.is_crowded = True
        return min(max(MIN_PITCH, preferred), available)

    def is_sound(self) -> bool:
        """Whether all text fits and every character is inside the image."""
        width, height = self.image.size
        return not self.is_crowded and all(
            glyph.x0 >= 0 and glyph.y0 >= 0 and glyph.x1 <= width and glyph.y1 <= height
            for glyph in self.glyphs
        )

    def text(
        self,
        text: str,
        x: float,
        y: float,
        face: Face,
        cap: float,
        color: Color,
        anchor: Anchor = "left",
        key: str | None = None,
    ) -> None:
        """Draw one line with its capitals centred vertically on `y`, and record its glyphs."""
        sized = font_with_cap(face, cap * self.scale)
        starts = self._starts(text, face, cap)
        left = x * self.scale
        if anchor != "left":
            left -= starts[-1] * (0.5 if anchor == "middle" else 1.0)
        left = round(left)
        base = round((y + cap / 2) * self.scale)
        parts = [(text, 0.0)] if cap >= SMALL_TEXT else zip(text, starts, strict=False)
        for part, start in parts:
            self.draw.text((left + start, base), part, fill=color, font=sized.font, anchor="ls")
        pixels = cap * self.scale
        level = base - pixels / 2
        for before, char, start in zip(f" {text}", text, starts, strict=False):
            if char != " ":
                x0, y0, x1, y1 = sized.ink(char)
                box = (left + start + x0, base + y0, left + start + x1, base + y1)
                self.glyphs.append(Glyph(char, *box, level, pixels, before != " "))
        if key is not None:
            self.heights[key] = cap

    def rotated_text(
        self,
        text: str,
        x: float,
        y: float,
        face: Face,
        cap: float,
        color: Color,
        angle: float,
        key: str | None = None,
    ) -> None:
        """Draw one line centred on (x, y), rotated by `angle` degrees anticlockwise."""
        if not angle:
            self.text(text, x, y, face, cap, color, "middle", key)
            return
        size = (
            math.ceil(self.text_width(text, face, cap) * self.scale) + 8,
            math.ceil(cap * 2.4 * self.scale) + 4,
        )
        part = Canvas(size, color, self.scale)
        cover = Canvas(size, (0, 0, 0), self.scale)
        cover.text(
            text, cover.width / 2, cover.height / 2, face, cap, (255, 255, 255), "middle", key
        )
        part.glyphs, part.heights = cover.glyphs, cover.heights
        self.paste_canvas(part, x, y, angle, cover.image.getchannel("R"))

    def box(
        self,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        fill: Color | None = None,
        outline: Color | None = None,
        line: float = 1.0,
        radius: float = 0.0,
    ) -> None:
        """Draw a rectangle with corners of radius `radius`."""
        s = self.scale
        corners = (round(x0 * s), round(y0 * s), round(x1 * s), round(y1 * s))
        width = max(1, round(line * s)) if outline else 0
        if radius:
            self.draw.rounded_rectangle(corners, radius * s, fill, outline, width)
        else:
            self.draw.rectangle(corners, fill, outline, width)

    def line(self, points: list[tuple[float, float]], color: Color, width: float = 1.0) -> None:
        """Draw a polyline through the points."""
        s = self.scale
        self.draw.line(
            [(round(x * s), round(y * s)) for x, y in points],
            color,
            max(1, round(width * s)),
            joint="curve",
        )

    def add_object(
        self, label: str, color: str | None, x0: float, y0: float, x1: float, y1: float
    ) -> None:
        """Record the label and box of an object that was drawn."""
        s = self.scale
        self.objects.append(DrawnObject(label, color, x0 * s, y0 * s, x1 * s, y1 * s))

    def stamp(self, mask: Image.Image, paint: Color | Image.Image, x: float, y: float) -> None:
        """Paste a colour or an image through `mask` with its upper left corner at (x, y)."""
        corner = (round(x * self.scale), round(y * self.scale))
        if isinstance(paint, Image.Image):
            self.image.paste(paint, corner, mask)
        else:
            self.image.paste(
                paint, (*corner, corner[0] + mask.width, corner[1] + mask.height), mask
            )

    def paste_canvas(
        self,
        part: "Canvas",
        x: float,
        y: float,
        angle: float = 0.0,
        mask: Image.Image | None = None,
    ) -> None:
        """Paste another canvas of the same scale, centred on (x, y), with its glyphs and heights.

        Args:
            angle: rotation about its centre in degrees, anticlockwise.
            mask: coverage, mode L, of the same size; None: opaque.
        """
        image = part.image
        mask = mask or Image.new("L", image.size, 255)
        width, height = image.size
        if angle:
            # An empty border gives the rotated edges antialiasing.
            image = ImageOps.expand(image, ROTATION_BORDER, _border_color(image))
            mask = ImageOps.expand(mask, ROTATION_BORDER, 0)
            image = image.rotate(angle, Image.Resampling.BICUBIC, expand=True)
            mask = mask.rotate(angle, Image.Resampling.BICUBIC, expand=True)
        left = round(x * self.scale - image.width / 2)
        top = round(y * self.scale - image.height / 2)
        self.image.paste(image, (left, top), mask)
        shift_x, shift_y = left + (image.width - width) / 2, top + (image.height - height) / 2
        center = width / 2, height / 2
        for glyph in part.glyphs:
            x0, y0, x1, y1 = rotated_box((glyph.x0, glyph.y0, glyph.x1, glyph.y1), angle, center)
            x = (glyph.x0 + glyph.x1) / 2
            level = rotated_box((x, glyph.level, x, glyph.level), angle, center)[1]
            box = (x0 + shift_x, y0 + shift_y, x1 + shift_x, y1 + shift_y)
            level += shift_y
            self.glyphs.append(Glyph(glyph.char, *box, level, glyph.cap, glyph.follows))
        self.heights.update(part.heights)


def rotated_box(
    box: tuple[float, float, float, float], angle: float, center: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Axis-aligned bounds of a box rotated by `angle` degrees anticlockwise about `center`."""
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    cx, cy = center
    corners = [
        (cx + (x - cx) * cos + (y - cy) * sin, cy - (x - cx) * sin + (y - cy) * cos)
        for x in (box[0], box[2])
        for y in (box[1], box[3])
    ]
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _border_color(image: Image.Image) -> Color:
    red, green, blue = image.crop((image.width // 2, 0, image.width // 2 + 1, 1)).tobytes()
    return red, green, blue

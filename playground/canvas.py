"""A picture under construction, in frame units, that remembers where every character went."""

import math
from random import Random
from typing import Literal

from PIL import Image, ImageDraw, ImageOps

from playground.cap_heights import FRAME, SHIPPED_HEIGHTS, SMALL_TEXT, CapHeights, choose_cap
from playground.colors import Color
from playground.faces import Face
from playground.fonts import font_with_cap
from playground.sample import Glyph, Thing

RIM = 2  # pixels
MIN_PITCH = 21.5  # units from line to line: a line of text for each row of image tokens
MIN_STEP = 3.6  # units between the middles of small characters: at most 6 for an image token


Anchor = Literal["left", "middle", "right"]


class Canvas:
    """An image whose longest side is `FRAME` units long, whatever its size in pixels.

    All positions and sizes given to the methods are in units; what is recorded is in pixels.

    Attributes:
        width, height: in units.
        scale: pixels per unit.
        caps: the cap heights that its text may have.
        heights: cap height in units of each text that was drawn with a key.
        is_crowded: some text did not fit even at the smallest cap height.
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
        self.things: list[Thing] = []
        self.heights: dict[str, float] = {}
        self.is_crowded = False

    @property
    def smallest_cap(self) -> float:
        """The smallest cap height, in units, that is legible in the image and in the frame."""
        return max(self.caps.low, self.caps.min_stored / self.scale)

    def choose_cap(self, rng: Random, usual: float, max_cap: float = math.inf) -> float:
        """A cap height, log-uniform over what the picture may have.

        Args:
            usual: maximum where the picture's heights have none.
            max_cap: maximum in any case; crowded where it is too small to read.
        """
        low, high = self.smallest_cap, min(usual, max_cap)
        if self.caps.high is not None:
            high = min(self.caps.high, max_cap)
            self.is_crowded |= high < low
        return choose_cap(rng, low, max(low, high))

    def choose_title_cap(
        self, rng: Random, title: str, face: Face, cap: float, max_cap: float
    ) -> float:
        """The cap height of a title above text of height `cap`: at least as large, if it fits.

        Args:
            max_cap: maximum, of pictures whose heights have one; crowded where it is too small.
        """
        chosen = choose_cap(rng, cap, max(cap, 16))
        if self.caps.high is None:
            return chosen
        self.is_crowded |= max_cap < SMALL_TEXT
        widest = chosen * (self.width - 12) / self.text_width(title, face, chosen)
        return min(chosen, max_cap, widest)

    def text_width(self, text: str, face: Face, cap: float) -> float:
        """The advance of a line of text, in units."""
        return self._starts(text, face, cap)[-1] / self.scale

    def _starts(self, text: str, face: Face, cap: float) -> list[float]:
        # Where each character begins, and where the line ends, in pixels.
        sized = font_with_cap(face, cap * self.scale)
        return sized.spaced(text, MIN_STEP * self.scale) if cap < SMALL_TEXT else sized.starts(text)

    def fitting_cap(self, texts: list[str], face: Face, cap: float, width: float) -> float:
        """`cap`, or as much less as every text needs to be at most `width` wide."""
        widest = max(self.text_width(text, face, cap) for text in texts)
        return cap if widest <= width else self.shrunk_cap(cap, width / widest * 0.98)

    def shrunk_cap(self, cap: float, factor: float) -> float:
        """`cap` times `factor`, but not too small to read; then the canvas is crowded."""
        if cap * factor < self.smallest_cap * 0.97:
            self.is_crowded = True
        return max(self.smallest_cap, cap * factor)

    def lowered_cap(self, cap: float, max_cap: float) -> float:
        """`cap`, or `max_cap` where that is less, but not too small to read.

        The canvas is crowded then, but not in pictures whose heights have no maximum.
        """
        self.is_crowded |= self.caps.high is not None and max_cap < self.smallest_cap
        return min(cap, max(self.smallest_cap, max_cap))

    def fitting_pitch(self, preferred: float, available: float) -> float:
        """A distance between lines of at most `available`; crowded where they would touch."""
        if available < MIN_PITCH:
            self.is_crowded = True
        return min(max(MIN_PITCH, preferred), available)

    def is_sound(self) -> bool:
        """Whether all text fits and no character crosses the edge of the image."""
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
        """Draw one line whose capitals are centred on height `y`, and note its glyphs."""
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

    def turned_text(
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
        """Draw one line with its centre at (x, y), turned by `angle` degrees anticlockwise."""
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
        self.place(part, x, y, angle, cover.image.getchannel("R"))

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
        """Draw a rectangle, its corners rounded by `radius`."""
        s = self.scale
        corners = (round(x0 * s), round(y0 * s), round(x1 * s), round(y1 * s))
        width = max(1, round(line * s)) if outline else 0
        if radius:
            self.draw.rounded_rectangle(corners, radius * s, fill, outline, width)
        else:
            self.draw.rectangle(corners, fill, outline, width)

    def line(self, points: list[tuple[float, float]], color: Color, width: float = 1.0) -> None:
        """Draw a line through the points."""
        s = self.scale
        self.draw.line(
            [(round(x * s), round(y * s)) for x, y in points],
            color,
            max(1, round(width * s)),
            joint="curve",
        )

    def note(
        self, label: str, color: str | None, x0: float, y0: float, x1: float, y1: float
    ) -> None:
        """Note an object that was drawn in this box."""
        s = self.scale
        self.things.append(Thing(label, color, x0 * s, y0 * s, x1 * s, y1 * s))

    def stamp(self, mask: Image.Image, paint: Color | Image.Image, x: float, y: float) -> None:
        """Paste a colour or an image through `mask` with its upper left corner at (x, y)."""
        corner = (round(x * self.scale), round(y * self.scale))
        if isinstance(paint, Image.Image):
            self.image.paste(paint, corner, mask)
        else:
            self.image.paste(
                paint, (*corner, corner[0] + mask.width, corner[1] + mask.height), mask
            )

    def place(
        self,
        part: "Canvas",
        x: float,
        y: float,
        angle: float = 0.0,
        mask: Image.Image | None = None,
    ) -> None:
        """Paste another canvas of the same scale, its centre at (x, y), with all that it noted.

        Args:
            angle: degrees by which it is turned anticlockwise about its centre.
            mask: its coverage, mode L and of its size; everything where None.
        """
        image = part.image
        mask = mask or Image.new("L", image.size, 255)
        width, height = image.size
        if angle:
            # A bare rim makes the turned edges smooth.
            image = ImageOps.expand(image, RIM, _rim_color(image))
            mask = ImageOps.expand(mask, RIM, 0)
            image = image.rotate(angle, Image.Resampling.BICUBIC, expand=True)
            mask = mask.rotate(angle, Image.Resampling.BICUBIC, expand=True)
        left = round(x * self.scale - image.width / 2)
        top = round(y * self.scale - image.height / 2)
        self.image.paste(image, (left, top), mask)
        shift_x, shift_y = left + (image.width - width) / 2, top + (image.height - height) / 2
        center = width / 2, height / 2
        for glyph in part.glyphs:
            x0, y0, x1, y1 = turned_box((glyph.x0, glyph.y0, glyph.x1, glyph.y1), angle, center)
            x = (glyph.x0 + glyph.x1) / 2
            level = turned_box((x, glyph.level, x, glyph.level), angle, center)[1]
            box = (x0 + shift_x, y0 + shift_y, x1 + shift_x, y1 + shift_y)
            level += shift_y
            self.glyphs.append(Glyph(glyph.char, *box, level, glyph.cap, glyph.follows))
        self.heights.update(part.heights)


def turned_box(
    box: tuple[float, float, float, float], angle: float, center: tuple[float, float]
) -> tuple[float, float, float, float]:
    """The axis-aligned box around a box turned anticlockwise by `angle` degrees about `center`."""
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    cx, cy = center
    corners = [
        (cx + (x - cx) * cos + (y - cy) * sin, cy - (x - cx) * sin + (y - cy) * cos)
        for x in (box[0], box[2])
        for y in (box[1], box[3])
    ]
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _rim_color(image: Image.Image) -> Color:
    red, green, blue = image.crop((image.width // 2, 0, image.width // 2 + 1, 1)).tobytes()
    return red, green, blue

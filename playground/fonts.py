"""Fonts loaded by typeface and cap height."""

import math
from functools import lru_cache
from random import Random

from PIL import ImageFont

from mgm.errors import MGMError
from playground.faces import EMOJI_FILE, FACES, FOLDER, PACKAGES, Face
from playground.sample import Split

SMALL_CAP = 14.0  # units; smaller text is set in `plain` faces
TINY_CAP = 8.0  # units; smaller text is set in `tiny` faces
HELD_OUT_SHARE = 0.4  # share of held-out images with a held-out face

_POOLS = {
    (held_out, quality): tuple(
        face
        for face in FACES
        if face.held_out == held_out and (not quality or getattr(face, quality))
    )
    for held_out in (False, True)
    for quality in ("", "plain", "tiny")
}


def choose_face(rng: Random, split: Split, cap: float = SMALL_CAP) -> Face:
    """Sample a face for text of cap height `cap` (units); held-out faces in that split only."""
    held_out = split == "held_out" and rng.random() < HELD_OUT_SHARE
    quality = "" if cap >= SMALL_CAP else "plain" if cap >= TINY_CAP else "tiny"
    return rng.choice(_POOLS[held_out, quality])


class SizedFont:
    """A face at one size, with cached advances and ink boxes of its characters (pixels)."""

    def __init__(self, face: Face, half_points: int) -> None:
        self.font = _open(face.file, half_points / 2)
        self._kerns = _has_kerning(face)
        self._advances: dict[str, float] = {}
        self._boxes: dict[str, tuple[float, float, float, float]] = {}

    def starts(self, text: str) -> list[float]:
        """Start of each character of a line, and the end of the line, from its left end."""
        positions, x = [], 0.0
        for index, char in enumerate(text):
            if self._kerns and index:
                pair = text[index - 1 : index + 1]
                x += self._advance(pair) - self._advance(pair[0]) - self._advance(pair[1])
            positions.append(x)
            x += self._advance(char)
        return [*positions, x]

    def spaced(self, text: str, min_step: float) -> list[float]:
        """Like `starts`, in whole pixels, with character centres at least `min_step` apart."""
        positions, x, last = [], 0, -min_step
        for char in text:
            advance = round(self._advance(char))
            if char == " ":
                advance = max(advance, math.ceil(0.8 * min_step))
            else:
                left, _, right, _ = self.ink(char)
                middle = (left + right) / 2
                x = max(x, math.ceil(last + min_step - middle))
                last = x + middle
            positions.append(float(x))
            x += advance
        return [*positions, float(x)]

    def width(self, text: str) -> float:
        """Advance width of a line."""
        return self.starts(text)[-1]

    def ink(self, char: str) -> tuple[float, float, float, float]:
        """Ink box of a character, relative to its origin on the baseline."""
        box = self._boxes.get(char)
        if box is None:
            box = self._boxes[char] = self.font.getbbox(char, anchor="ls")
        return box

    def _advance(self, text: str) -> float:
        advance = self._advances.get(text)
        if advance is None:
            advance = self._advances[text] = self.font.getlength(text)
        return advance


@lru_cache(maxsize=1500)
def load_font(face: Face, half_points: int) -> SizedFont:
    """Load a face at `half_points` / 2 pixels per em."""
    return SizedFont(face, half_points)


def font_with_cap(face: Face, cap: float) -> SizedFont:
    """Load a face with capitals `cap` pixels high, to the nearest half pixel per em."""
    return load_font(face, max(2, round(2 * cap / _cap_per_em(face))))


def emoji_font() -> ImageFont.FreeTypeFont:
    """Load the colour emoji font at its only bitmap size, 109 pixels."""
    return _open(EMOJI_FILE, 109)


@lru_cache
def _cap_per_em(face: Face) -> float:
    _, top, _, bottom = _open(face.file, 200).getbbox("H", anchor="ls")
    return (bottom - top) / 200


@lru_cache
def _has_kerning(face: Face) -> bool:
    font = _open(face.file, 100)
    return any(
        font.getlength(a + b) != font.getlength(a) + font.getlength(b)
        for a, b in ("AV", "To", "Yo", "LT", "P.")
    )


def _open(file: str, size: float) -> ImageFont.FreeTypeFont:
    try:
        # The basic layout is several times faster than Raqm; our text needs no shaping.
        return ImageFont.truetype(FOLDER / file, size, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise MGMError(
            f"{FOLDER / file}: font not found; install the fonts with:"
            f" apt-get install {' '.join(PACKAGES)}"
        ) from error

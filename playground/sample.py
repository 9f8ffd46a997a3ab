"""What a drawn scene gives: images, the boxes of all that was drawn, and questions with answers."""

from dataclasses import dataclass, field
from typing import Literal

from PIL import Image

Split = Literal["train", "held_out"]


@dataclass(frozen=True)
class Glyph:
    """One drawn character and the axis-aligned box of its ink, in image pixels.

    Attributes:
        level: height of the middle of the line's capitals at the character; "b" and "g" share it.
        cap: cap height of its text, in image pixels.
        follows: whether it stands directly right of the character before it, with no space.
    """

    char: str
    x0: float
    y0: float
    x1: float
    y1: float
    level: float
    cap: float
    follows: bool = False


@dataclass(frozen=True)
class Thing:
    """One drawn object (a shape, an emoji, a bar) and its box, in image pixels."""

    label: str
    color: str | None
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class Turn:
    """One question with its answer.

    Attributes:
        kind: scene and question, as in "receipt/price".
        text_height: cap height of the smallest text one must read for the answer, in pixels of the
            256-pixel frame of the nano model (the image's longest side scaled to 256); None where
            nothing has to be read.
        clue: drawn text that one must find on the way to the answer and that the question does not
            say; None where there is none, or more than one.
    """

    question: str
    answer: str
    kind: str
    text_height: float | None = None
    clue: str | None = None


@dataclass
class Sample:
    """Images (RGB) with a conversation about them; glyphs and objects are listed per image."""

    kind: str
    images: list[Image.Image]
    turns: list[Turn]
    caption: str
    glyphs: list[list[Glyph]] = field(default_factory=list)
    objects: list[list[Thing]] = field(default_factory=list)

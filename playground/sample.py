"""A drawn sample: images, boxes of characters and objects, and questions with answers."""

from dataclasses import dataclass, field
from typing import Literal

from PIL import Image

Split = Literal["train", "held_out"]


@dataclass(frozen=True)
class Glyph:
    """One drawn character and the axis-aligned box of its ink, in image pixels.

    Attributes:
        level: vertical centre of the line's capitals at the character, the same for "b" and "g".
        cap: cap height of its text, in image pixels.
        follows: whether it directly follows another character, without a space.
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
class DrawnObject:
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
        kind: kind of scene and of question, as in "receipt/price".
        text_height: cap height of the smallest text that the answer requires reading, in units
            (pixels after scaling the image's longest side to 256); None: no text is required.
        clue: drawn text that leads to the answer without being in the question, such as the
            highest value when its label is asked for; None: none, or more than one.
    """

    question: str
    answer: str
    kind: str
    text_height: float | None = None
    clue: str | None = None


@dataclass
class Sample:
    """RGB images with a conversation about them, and the glyphs and objects of each image."""

    kind: str
    images: list[Image.Image]
    turns: list[Turn]
    caption: str
    glyphs: list[list[Glyph]] = field(default_factory=list)
    objects: list[list[DrawnObject]] = field(default_factory=list)

"""What a sign shows."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Spec:
    """What a sign says.

    Attributes:
        texts: one line each, from top to bottom.
        papers: colour of the plate or of the background, or of each box in the layout "boxes".
        ink: colour of the text where it is bare; otherwise whatever contrasts.
        small: index of the line in small letters, in the layout "headline".
        other: a text like the first one that is not on the sign.
        pill: the plate has round ends; only in held-out images.
    """

    layout: str
    bare: bool
    texts: tuple[str, ...]
    papers: tuple[str, ...]
    ink: str
    small: int
    other: str
    pill: bool

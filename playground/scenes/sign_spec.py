"""The spec of a sign."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Spec:
    """Content of a sign.

    Attributes:
        layout: "single", "headline", "lines" or "boxes".
        bare: whether the text is on the background, without a plate.
        texts: lines of text from top to bottom.
        papers: colour of the plate or background, or of each box in the layout "boxes".
        ink: colour of bare text; on plates and boxes the colour is sampled for contrast.
        small: index of the line in small letters, in the layout "headline".
        other: text similar to the first line that is not on the sign.
        pill: whether the plate has round ends; only in held-out images.
    """

    layout: str
    bare: bool
    texts: tuple[str, ...]
    papers: tuple[str, ...]
    ink: str
    small: int
    other: str
    pill: bool

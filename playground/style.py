"""What the pictures of a data set may look like."""

from dataclasses import dataclass

from playground.cap_heights import SHIPPED_HEIGHTS, CapHeights
from playground.photo_library import Photos


@dataclass(frozen=True)
class Style:
    """How one picture may look.

    Attributes:
        caps: cap heights of its text.
        photos: photographs that it may show; None: none.
    """

    caps: CapHeights = SHIPPED_HEIGHTS
    photos: Photos | None = None


SHIPPED = Style()  # of the data that the shipped weights were trained on

"""Style options of the images of a data set."""

from dataclasses import dataclass

from playground.cap_heights import SHIPPED_HEIGHTS, CapHeights
from playground.photo_library import Photos


@dataclass(frozen=True)
class Style:
    """Style options of one image.

    Attributes:
        caps: allowed cap heights of its text.
        photos: photographs available to scenes; None: none.
    """

    caps: CapHeights = SHIPPED_HEIGHTS
    photos: Photos | None = None


SHIPPED = Style()  # that of the training data of the shipped weights

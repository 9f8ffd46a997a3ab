"""Cap heights of the text in an image, in units: pixels after scaling its longest side to 256."""

from dataclasses import dataclass
from itertools import pairwise
from random import Random

from mgm.errors import MGMError

FRAME = 256  # units along the longest side of an image
MIN_CAP = 4.0  # default minimum: 2.6 pixels in the 168-pixel view of the ViT, 6 in that of 384
SHIPPED_MIN_CAP = 12.0  # minimum in the training data of the shipped weights
HEIGHT_BINS = tuple(pairwise((4, 6, 8, 12, 20, 28, 44)))
SMALL_TEXT = 12.0  # units; smaller text is letter-spaced, high-contrast and not rotated
MIN_STORED_CAP = 6.0  # pixels of the stored image; smaller capitals are not legible
ADVANCE = 0.78  # advance of a character / cap height, about the mean over our typefaces
PITCH = 1.9  # line pitch / cap height


@dataclass(frozen=True)
class CapHeights:
    """Allowed cap heights of the text in one image, in units.

    Attributes:
        low: minimum.
        high: maximum; None: chosen by each scene, mostly just above the minimum.
    """

    low: float
    high: float | None = None

    @property
    def min_stored(self) -> float:
        """Minimum cap height in pixels of the stored image."""
        return self.low if self.high is None else MIN_STORED_CAP

    @property
    def columns(self) -> int:
        """Approximate number of characters of the minimum height that fit on a line."""
        return FRAME if self.high is None else int(FRAME / (ADVANCE * self.low))

    @property
    def lines(self) -> int:
        """Number of lines of the minimum height that fit below each other."""
        return FRAME if self.high is None else int(FRAME / (PITCH * self.low))


SHIPPED_HEIGHTS = CapHeights(SHIPPED_MIN_CAP)


def choose_heights(rng: Random, min_cap_height: float) -> CapHeights:
    """Sample the cap-height range of an image, uniformly from `HEIGHT_BINS`.

    At `SHIPPED_MIN_CAP`, scenes choose their own heights and no random number is drawn.

    Raises:
        MGMError: `min_cap_height` is not between `MIN_CAP` and `SHIPPED_MIN_CAP`.
    """
    if not MIN_CAP <= min_cap_height <= SHIPPED_MIN_CAP:
        raise MGMError(
            f"minimum cap height: {min_cap_height} is not from {MIN_CAP:g} to {SHIPPED_MIN_CAP:g}"
        )
    if min_cap_height == SHIPPED_MIN_CAP:
        return SHIPPED_HEIGHTS
    low, high = rng.choice([b for b in HEIGHT_BINS if b[1] > min_cap_height])
    return CapHeights(max(low, min_cap_height), high)


def choose_cap(rng: Random, low: float, high: float) -> float:
    """Sample a cap height, log-uniform between `low` and `high`."""
    return low if high <= low else low * (high / low) ** rng.random()

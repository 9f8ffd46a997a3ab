"""How tall the capitals in a picture are, in units: pixels of an image of 256."""

from dataclasses import dataclass
from itertools import pairwise
from random import Random

from mgm.errors import MGMError

FRAME = 256  # units along the longest side: the pixels of the nano model's view
MIN_CAP = 4.0  # of new data: 2.6 pixels in the low-resolution view of 168, 6 in that of 384
SHIPPED_MIN_CAP = 12.0  # of the data that the shipped weights were trained on
HEIGHT_BINS = tuple(pairwise((4, 6, 8, 12, 20, 28, 44)))
SMALL_TEXT = 12.0  # units; text below it is spaced, of strong contrast and level
MIN_STORED_CAP = 6.0  # pixels of the stored image; capitals below it are not legible
ADVANCE = 0.78  # of a character, to the cap height; about the mean over our faces
PITCH = 1.9  # from line to line, to the cap height


@dataclass(frozen=True)
class CapHeights:
    """The cap heights of the text in one picture, in units.

    Attributes:
        low: minimum.
        high: maximum; None: as each scene prefers, most often just above the minimum.
    """

    low: float
    high: float | None = None

    @property
    def min_stored(self) -> float:
        """Minimum cap height in pixels of the stored image."""
        return self.low if self.high is None else MIN_STORED_CAP

    @property
    def columns(self) -> int:
        """About how many characters of the minimum height fit on a line."""
        return FRAME if self.high is None else int(FRAME / (ADVANCE * self.low))

    @property
    def lines(self) -> int:
        """How many lines of the minimum height fit one below the other."""
        return FRAME if self.high is None else int(FRAME / (PITCH * self.low))


SHIPPED_HEIGHTS = CapHeights(SHIPPED_MIN_CAP)


def choose_heights(rng: Random, min_cap_height: float) -> CapHeights:
    """The cap heights of a picture: one of `HEIGHT_BINS`, each as likely as any other.

    At `SHIPPED_MIN_CAP` heights are as each scene prefers, and no random number is drawn.

    Raises:
        MGMError: the minimum is not from `MIN_CAP` to `SHIPPED_MIN_CAP`.
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
    """A cap height between two, log-uniform."""
    return low if high <= low else low * (high / low) ** rng.random()

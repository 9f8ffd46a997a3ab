"""Random image sizes in pixels."""

import math
from random import Random

from playground.cap_heights import FRAME, SHIPPED_HEIGHTS, CapHeights

SQUARES = (FRAME, 384)  # pixels per side of square images
SHORTEST, LONGEST = 160, 640  # pixels of the longer side of non-square images


def choose_size(
    rng: Random, orientation: str | None = None, caps: CapHeights = SHIPPED_HEIGHTS
) -> tuple[int, int]:
    """Sample width and height in pixels.

    55 % of the images are squares of 256 or 384 pixels per side; the longer side of the others has
    160 to 640 pixels. Small text raises the minimum, so that it stays legible.

    Args:
        orientation: "tall" or "wide"; None: random.
        caps: cap heights of the image's text.
    """
    shortest = SHORTEST
    if caps.high is not None:
        shortest = max(shortest, math.ceil(FRAME * caps.min_stored / caps.low))
    if rng.random() < 0.55:
        side = FRAME if caps.high is None else rng.choice([s for s in SQUARES if s >= shortest])
        return side, side
    long = round(shortest * (LONGEST / shortest) ** rng.random())
    short = round(long * rng.uniform(0.7, 1.0))
    tall = rng.random() < 0.5 if orientation is None else orientation == "tall"
    return (short, long) if tall else (long, short)

"""Named colours, random shades of them, and the contrast of two colours."""

from random import Random

from playground.cap_heights import SMALL_TEXT

Color = tuple[int, int, int]

COLORS: dict[str, Color] = {
    "red": (214, 38, 38),
    "orange": (245, 138, 20),
    "yellow": (248, 214, 30),
    "green": (42, 158, 62),
    "blue": (38, 88, 210),
    "purple": (132, 52, 170),
    "pink": (248, 130, 186),
    "brown": (126, 76, 38),
    "gray": (128, 128, 132),
    "black": (18, 18, 20),
    "white": (250, 250, 250),
}
VIVID = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
NEUTRAL = ("gray", "black", "white")
NEUTRAL_TINT = 3  # levels of difference between channels; with more, gray would look purple
JITTER = 12  # each channel of a shade is within this many levels of the named colour


def shade(name: str, rng: Random, jitter: int = JITTER) -> Color:
    """Sample a shade of a named colour that is still recognisable as it."""
    common, tint = 0, jitter
    if name in NEUTRAL:
        common, tint = rng.randint(-jitter, jitter), min(jitter, NEUTRAL_TINT)
    r, g, b = (
        min(255, max(0, level + common + rng.randint(-tint, tint))) for level in COLORS[name]
    )
    return r, g, b


def luminance(color: Color) -> float:
    """Relative luminance in 0..1 (WCAG 2)."""
    linear = [
        (level / 255 / 12.92) if level <= 10 else ((level / 255 + 0.055) / 1.055) ** 2.4
        for level in color
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: Color, second: Color) -> float:
    """Contrast ratio in 1..21 (WCAG 2)."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def ink_on(paper: Color, rng: Random, min_contrast: float = 3.5) -> Color:
    """Sample a text colour with at least `min_contrast` on `paper`; else black or white."""
    for _ in range(4):
        ink = (rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255))
        if rng.random() < 0.6:
            ink = shade(rng.choice(("black", "white")), rng)
        if contrast(ink, paper) >= min_contrast:
            return ink
    return (10, 10, 10) if luminance(paper) > 0.18 else (250, 250, 250)


def readable_ink(paper: Color, rng: Random, cap: float) -> Color:
    """Sample a text colour for capitals `cap` units high: small text gets a higher contrast."""
    return ink_on(paper, rng, 3.5 if cap >= SMALL_TEXT else 6)


def pale(rng: Random) -> Color:
    """Sample a light paper colour."""
    return rng.randint(222, 255), rng.randint(222, 255), rng.randint(216, 255)


def dark(rng: Random) -> Color:
    """Sample a dark background colour."""
    return rng.randint(8, 52), rng.randint(8, 52), rng.randint(8, 60)

"""Dense pages of text without questions, for the pre-training of the encoders."""

import math
import string
from random import Random

from PIL import ImageFilter

from playground.backgrounds import add_grain, choose_background
from playground.canvas import MIN_PITCH, Canvas
from playground.cap_heights import (
    FRAME,
    MIN_CAP,
    SHIPPED_MIN_CAP,
    SMALL_TEXT,
    choose_cap,
    choose_heights,
)
from playground.colors import VIVID, Color, contrast, dark, pale, shade
from playground.emoji import EMOJI, draw_emoji
from playground.faces import Face
from playground.fonts import choose_face
from playground.sample import Sample
from playground.shapes import SHAPES, draw_shape
from playground.words import (
    choose_code,
    choose_nonsense,
    choose_number,
    choose_phone,
    choose_price,
    choose_words,
    is_held_out,
)

PUNCTUATION = "$%&?!:;#+=@*()/-.,'\""
LETTERS_AND_DIGITS = string.ascii_letters + string.digits
MIN_LENGTH, MAX_LENGTH = 40, 200  # characters
ATTEMPTS = 20
SHARP_SIDE = 384  # pixels per side of a page with small text
SHORT_LINE, LONG_LINE = 10, 40  # range of the maximum line length / cap height of small text
LARGEST_CAP = 40  # units
LARGE_SHARE = 0.35  # share of blocks with capitals up to LARGEST_CAP, in the shipped data


def draw_page(seed: int, min_cap_height: float = MIN_CAP) -> Sample:
    """Draw a page with 40 to 200 characters of training words, and some objects.

    Args:
        seed: equal arguments give an equal page.
        min_cap_height: in units. At 12, as in the training data of the shipped weights, a page has
            256 x 256 pixels; below, 384 x 384.
    """
    for attempt in range(ATTEMPTS):
        page = _draw(Random(f"page/{seed}/{attempt}"), min_cap_height)
        if len(page.glyphs[0]) >= MIN_LENGTH:
            break
    return page


def _draw(rng: Random, min_cap: float) -> Sample:
    paper = _paper(rng)
    size = (FRAME, FRAME) if min_cap >= SHIPPED_MIN_CAP else (SHARP_SIDE, SHARP_SIDE)
    canvas = Canvas(size, choose_background(size, paper, rng, 28, (35, 25, 25, 15)))
    wanted = rng.randint(MIN_LENGTH + 20, MAX_LENGTH)
    free: list[tuple[float, float, float, float]] = [(2, 2, FRAME - 2, FRAME - 2)]
    for _ in range(rng.randint(0, 3)):
        _put_object(canvas, rng, free, paper)
    lines: list[str] = []
    while len(canvas.glyphs) < wanted and free:
        area = max(free, key=_area)
        free.remove(area)
        left_over = wanted - len(canvas.glyphs)
        free += _put_block(canvas, rng, area, paper, min_cap, left_over, lines)
    image = canvas.image
    # Blur would make small text illegible.
    is_large = min(canvas.heights.values(), default=FRAME) >= SMALL_TEXT
    if is_large and rng.random() < 0.2:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.55)))
    if is_large and rng.random() < 0.15:
        image = add_grain(image, rng, rng.uniform(2, 6))
    return Sample("page", [image], [], "\n".join(lines), [canvas.glyphs], [canvas.objects])


def _paper(rng: Random) -> Color:
    kind = rng.choices(("pale", "dark", "vivid"), (60, 20, 20))[0]
    if kind == "vivid":
        return shade(rng.choice(VIVID), rng, 30)
    return pale(rng) if kind == "pale" else dark(rng)


def _area(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _put_object(
    canvas: Canvas, rng: Random, free: list[tuple[float, float, float, float]], paper: Color
) -> None:
    area = max(free, key=_area)
    x0, y0, x1, y1 = area
    side = rng.uniform(20, 64)
    if x1 - x0 < side + 4 or y1 - y0 < side + 4:
        return
    free.remove(area)
    x = rng.choice((x0 + side / 2 + 2, x1 - side / 2 - 2))
    y = rng.uniform(y0 + side / 2 + 2, y1 - side / 2 - 2)
    if rng.random() < 0.5:
        draw_emoji(canvas, rng.choice(tuple(EMOJI)), x, y, side)
    else:
        color = rng.choice(VIVID)
        while contrast(paint := shade(color, rng), paper) < 1.3:
            color = rng.choice(VIVID)
        draw_shape(canvas, rng.choice(SHAPES), x, y, side, paint, color)
    top, bottom = y - side / 2 - 2, y + side / 2 + 2
    inner = (x + side / 2 + 3, x1) if x < (x0 + x1) / 2 else (x0, x - side / 2 - 3)
    free += [(x0, y0, x1, top), (inner[0], top, inner[1], bottom), (x0, bottom, x1, y1)]


def _put_block(
    canvas: Canvas,
    rng: Random,
    area: tuple[float, float, float, float],
    paper: Color,
    min_cap: float,
    left_over: int,
    written: list[str],
) -> list[tuple[float, float, float, float]]:
    x0, y0, x1, y1 = area
    low, high = _choose_range(rng, min_cap)
    high = min(high, (y1 - y0) / 2.5)
    if high < low:
        low = min_cap  # smaller text than sampled, to fit into the area
    if high < low:
        return []
    cap = choose_cap(rng, low, high)
    face = choose_face(rng, "train", cap)
    limit = x1 - x0 - 6
    angle = 0.0
    if cap < SMALL_TEXT:
        limit = min(limit, cap * rng.uniform(SHORT_LINE, LONG_LINE))
    elif rng.random() < 0.2:
        angle = rng.uniform(-7, 7)
    drop = limit * abs(math.sin(math.radians(angle)))
    if drop > 40:
        limit, drop = limit * 40 / drop, 40.0
    pitch = max(cap * rng.uniform(1.7, 2.2), MIN_PITCH)
    if y1 - y0 < pitch + drop + 2 or limit < cap * 2:
        return []
    lines = min(rng.randint(1, 5), 1 + int((y1 - y0 - drop - pitch) / pitch))
    ink = _ink(paper, rng, cap)
    y = y0 + (pitch + drop) / 2
    shift = rng.random() * (x1 - x0 - 6 - limit)
    for _ in range(lines):
        text = _line(canvas, rng, face, cap, limit, left_over)
        left_over -= len(text)
        if text:
            written.append(text)
            width = canvas.text_width(text, face, cap)
            # Lines of a rotated block are centred; others have random indents.
            free = (limit - width) * (0.5 if angle else rng.random())
            x = x0 + 3 + shift + free + width / 2
            canvas.rotated_text(text, x, y, face, cap, ink, angle, key=f"line {len(written)}")
        y += pitch
    y += drop / 2
    return [(x0, y - pitch / 2 + 3, x1, y1)]


def _choose_range(rng: Random, min_cap: float) -> tuple[float, float]:
    """Sample the minimum and maximum cap height of a block."""
    caps = choose_heights(rng, min_cap)
    if caps.high is not None:
        return caps.low, min(caps.high, LARGEST_CAP)
    return caps.low, LARGEST_CAP if rng.random() < LARGE_SHARE else 17


def _line(
    canvas: Canvas, rng: Random, face: Face, cap: float, limit: float, max_length: int
) -> str:
    text = ""
    while len(text) < max_length:
        longer = f"{text} {choose_token(rng)}".strip()
        if canvas.text_width(longer, face, cap) > limit:
            break
        text = longer
        if rng.random() < 0.1:
            break
    return text


def _ink(paper: Color, rng: Random, cap: float) -> Color:
    min_contrast = rng.uniform(2.6, 5) if cap >= SMALL_TEXT else rng.uniform(5, 8)
    for _ in range(12):
        ink = (rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255))
        if contrast(ink, paper) >= min_contrast:
            return ink
    return (10, 10, 10) if contrast((10, 10, 10), paper) > 4.5 else (250, 250, 250)


def choose_token(rng: Random) -> str:
    """Sample a word, number, code or random string of the training split."""
    kind = rng.choices(
        ("word", "number", "price", "code", "phone", "random", "nonsense", "mark"),
        (36, 14, 10, 10, 4, 12, 10, 4),
    )[0]
    if kind == "number":
        return str(choose_number(rng, "train", 0, rng.choice((9, 99, 999, 9999))))
    if kind == "price":
        return f"{rng.choice(('', '', '$'))}{choose_price(rng, 'train', 0, 2999) / 100:.2f}"
    if kind == "code":
        return choose_code(rng, "train")
    if kind == "phone":
        return choose_phone(rng, "train")
    if kind == "random":
        while is_held_out(text := "".join(rng.choices(LETTERS_AND_DIGITS, k=rng.randint(2, 6)))):
            pass
        return text
    if kind == "mark":
        return "".join(rng.choices(PUNCTUATION, k=rng.randint(1, 3)))
    word = choose_nonsense(rng, "train") if kind == "nonsense" else choose_words(rng, "train", 1)[0]
    return rng.choices((word, word.lower(), word.upper()), (50, 30, 20))[0]

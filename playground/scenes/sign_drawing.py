"""Rendering of signs: a plate, text on the background, or stacked boxes."""

from collections.abc import Sequence
from random import Random

from PIL import Image, ImageDraw

from playground.backgrounds import choose_background, choose_surroundings
from playground.canvas import MIN_PITCH, Canvas
from playground.cap_heights import SMALL_TEXT, choose_cap
from playground.colors import Color, dark, pale, readable_ink, shade
from playground.faces import Face
from playground.fonts import choose_face
from playground.image_sizes import choose_size
from playground.sample import Split
from playground.scenes.sign_spec import Spec
from playground.style import SHIPPED, Style

LARGEST_CAP = 44.0  # units, like all sizes here
LARGER = 1.6  # minimum ratio of the large to the small cap height of a headline
MAX_SMALL_CAP = LARGEST_CAP / LARGER
MARGIN = 22.0  # minimum on both sides of the widest line
ROTATED_SHARE = 0.25  # share of rotated plates and lines


def draw_sign(
    spec: Spec,
    rng: Random,
    split: Split,
    size: tuple[int, int] | None = None,
    style: Style = SHIPPED,
) -> Canvas:
    """Render a sign; the key of each text is "line" and its index.

    Args:
        spec: content of the sign.
        rng: source of random numbers.
        split: split of fonts and photographs.
        size: in pixels; None: random.
        style: style options.
    """
    size = size or choose_size(rng, caps=style.caps)
    if spec.bare:
        paper = shade(spec.papers[0], rng, 0 if rng.random() < 0.4 else 12)
        depth = 8 if is_black_and_white(spec) else 0
        canvas = Canvas(size, choose_background(size, paper, rng, depth), caps=style.caps)
        _draw_bare(canvas, spec, rng, split)
        return canvas
    around = pale(rng) if rng.random() < 0.6 else dark(rng)
    image = choose_surroundings(size, around, rng, split, 40, style.photos)
    canvas = Canvas(size, image, caps=style.caps)
    if spec.layout == "boxes":
        _draw_boxes(canvas, spec, rng, split)
    else:
        _draw_plate(canvas, spec, rng, split)
    return canvas


def is_black_and_white(spec: Spec) -> bool:
    """Whether text and background are black and white, so that the background may vary."""
    return {spec.papers[0], spec.ink} == {"black", "white"}


def _choose_caps(canvas: Canvas, spec: Spec, rng: Random, split: Split) -> tuple[Face, list[float]]:
    low, max_width = canvas.smallest_cap, canvas.width - 2 * MARGIN
    count = len(spec.texts)
    if spec.layout == "headline":
        small = canvas.choose_cap(rng, 14)
        caps = [min(LARGEST_CAP, max(small * 2, choose_cap(rng, 16, 38)))] * 2
        caps[spec.small] = small
    else:
        caps = [canvas.choose_cap(rng, LARGEST_CAP, (canvas.height - 24) / count / 2)] * count
    face = choose_face(rng, split, min(caps))
    caps = [
        canvas.fitting_cap([text], face, cap, max_width)
        for text, cap in zip(spec.texts, caps, strict=True)
    ]
    if spec.layout == "headline":
        # Shrinking the large line to fit must not make it as small as the other one.
        large = caps[1 - spec.small]
        canvas.is_crowded |= large / LARGER < low
        caps[spec.small] = max(low, min(caps[spec.small], large / LARGER))
    else:
        caps = [min(caps)] * count
    return face, caps


def _draw_lines(
    canvas: Canvas,
    texts: Sequence[str],
    x: float,
    y: float,
    face: Face,
    caps: list[float],
    pitches: list[float],
    ink: Color,
) -> None:
    for index, text in enumerate(texts):
        y += pitches[index] / 2
        canvas.text(text, x, y, face, caps[index], ink, "middle", f"line {index}")
        y += pitches[index] / 2


def _draw_plate(canvas: Canvas, spec: Spec, rng: Random, split: Split) -> None:
    face, caps = _choose_caps(canvas, spec, rng, split)
    widest = max(
        canvas.text_width(text, face, cap) for text, cap in zip(spec.texts, caps, strict=True)
    )
    pitches = [max(MIN_PITCH, cap * 1.9) for cap in caps]
    height = min(sum(pitches) + rng.uniform(8, 24), canvas.height - 6)
    ends = height * 0.35 if spec.pill else 0.0
    width = min(widest + rng.uniform(14, 34) + ends, canvas.width - 6)
    size = (round(width * canvas.scale), round(height * canvas.scale))
    paper = shade(spec.papers[0], rng)
    plate = Canvas(size, paper, canvas.scale)
    ink = readable_ink(paper, rng, min(caps))
    radius = height / 2 if spec.pill else rng.choice((0.0, 0.0, 4.0, 9.0))
    if rng.random() < 0.5 and not spec.pill:
        inset = rng.uniform(1.5, 3)
        plate.box(
            inset,
            inset,
            plate.width - inset,
            plate.height - inset,
            outline=ink,
            line=rng.uniform(0.8, 1.8),
            radius=max(0.0, radius - inset),
        )
    _draw_lines(
        plate,
        spec.texts,
        plate.width / 2,
        (plate.height - sum(pitches)) / 2,
        face,
        caps,
        pitches,
        ink,
    )
    angle = rng.uniform(-8, 8) if rng.random() < ROTATED_SHARE else 0.0
    slack_x = (canvas.width - width - height * abs(angle) / 57) / 2 - 2
    slack_y = (canvas.height - height - width * abs(angle) / 57) / 2 - 2
    if min(slack_x, slack_y) < 0 or min(caps) < SMALL_TEXT:
        angle = 0.0
    x = canvas.width / 2 + rng.uniform(-1, 1) * max(0.0, slack_x)
    y = canvas.height / 2 + rng.uniform(-1, 1) * max(0.0, slack_y)
    if rng.random() < 0.3:
        canvas.box(x - 3, y, x + 3, canvas.height, fill=(92, 88, 86))
    canvas.paste_canvas(plate, x, y, angle, _rounded(size, radius * canvas.scale))
    box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    canvas.add_object("sign", spec.papers[0], *box)


def _draw_bare(canvas: Canvas, spec: Spec, rng: Random, split: Split) -> None:
    face, caps = _choose_caps(canvas, spec, rng, split)
    widths = [
        canvas.text_width(text, face, cap) for text, cap in zip(spec.texts, caps, strict=True)
    ]
    pitches = [max(MIN_PITCH, cap * rng.uniform(1.8, 2.6)) for cap in caps]
    ink = shade(spec.ink, rng, 8)
    slack_x = (canvas.width - max(widths)) / 2 - 5
    x = canvas.width / 2 + rng.uniform(-1, 1) * max(0.0, slack_x)
    can_rotate = spec.layout == "single" and caps[0] >= SMALL_TEXT
    if can_rotate and rng.random() < ROTATED_SHARE:
        angle = rng.uniform(-8, 8)
        slack_y = (canvas.height - widths[0] * abs(angle) / 57 - caps[0] * 2.2) / 2 - 2
        y = canvas.height / 2 + rng.uniform(-1, 1) * max(0.0, slack_y)
        canvas.rotated_text(spec.texts[0], x, y, face, caps[0], ink, angle, "line 0")
        return
    spare = canvas.height - sum(pitches) - 4
    top = 2 + rng.random() * max(0.0, spare)
    _draw_lines(canvas, spec.texts, x, top, face, caps, pitches, ink)


def _draw_boxes(canvas: Canvas, spec: Spec, rng: Random, split: Split) -> None:
    slot = canvas.height / len(spec.texts)
    for index, (color, text) in enumerate(zip(spec.papers, spec.texts, strict=True)):
        cap = canvas.choose_cap(rng, 26, slot / 3)
        face = choose_face(rng, split, cap)
        cap = canvas.fitting_cap([text], face, cap, canvas.width - 2 * MARGIN)
        width = canvas.text_width(text, face, cap) + rng.uniform(14, 26)
        height = min(slot - 8, cap * 1.8 + rng.uniform(8, 20))
        x = rng.uniform(width / 2 + 3, canvas.width - width / 2 - 3)
        y = slot * (index + 0.5) + rng.uniform(-1, 1) * (slot - height - 6) / 2
        paper = shade(color, rng)
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        canvas.box(
            *box,
            fill=paper,
            outline=(70, 70, 70),
            line=0.8,
            radius=height / 2 if spec.pill else rng.choice((0, 0, 5)),
        )
        canvas.add_object("box", color, *box)
        canvas.text(text, x, y, face, cap, readable_ink(paper, rng, cap), "middle", f"line {index}")


def _rounded(size: tuple[int, int], radius: float) -> Image.Image:
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), radius, 255)
    return mask

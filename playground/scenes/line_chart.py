"""Line charts over months or days, with the value printed at every point."""

from dataclasses import dataclass
from random import Random

from playground.backgrounds import choose_background
from playground.canvas import Canvas
from playground.colors import VIVID, Color, contrast, dark, ink_on, pale, shade
from playground.fonts import choose_face
from playground.image_sizes import choose_size
from playground.sample import Split
from playground.scenes.chart import extreme_questions, title_question
from playground.scenes.qa import QAPair
from playground.shapes import draw_shape
from playground.style import SHIPPED, Style
from playground.words import DAYS, MONTHS, choose_spread, choose_words


@dataclass(frozen=True)
class Spec:
    """Content of a line chart: points from left to right, with different values.

    Attributes:
        unit: "month" or "day".
        marker: shape of the points; squares only in held-out images.
    """

    title: str
    unit: str
    labels: tuple[str, ...]
    values: tuple[int, ...]
    color: str
    marker: str


def choose_spec(rng: Random, split: Split, style: Style = SHIPPED) -> Spec:
    """Sample the spec of a line chart: labels, values, colour, marker."""
    unit, names = rng.choice((("month", MONTHS), ("day", DAYS)))
    count = rng.randint(3, max(3, min(5, style.caps.columns // 4)))
    start = rng.randrange(len(names) - count + 1)
    max_value = rng.choice((40, 60, 100, 300, 900))
    values = choose_spread(rng, split, count, max(1, max_value // 12), max_value, 0.06)
    held_out = split == "held_out" and rng.random() < 0.3
    return Spec(
        choose_words(rng, split, 1, "business")[0],
        unit,
        names[start : start + count],
        values,
        rng.choice(VIVID),
        "square" if held_out else "circle",
    )


def sentences(spec: Spec) -> list[str]:
    """Describe the spec in sentences, for the caption."""
    points = ", ".join(f"{label} {value}" for label, value in _points(spec))
    return [
        f'A line chart with the title "{spec.title}".',
        f"Its points are {points}.",
        f"The line is {spec.color}.",
    ]


def qa_pairs(spec: Spec, rng: Random) -> list[QAPair]:
    """List the questions about the line, with answers."""
    unit, count = spec.unit, len(spec.labels)
    preposition = "in" if unit == "month" else "on"
    result = [
        QAPair("color", ("What color is the line?",), spec.color, f"The line is {spec.color}."),
        QAPair(
            "points",
            ("How many points does the line have?",),
            str(count),
            f"The line has {count} points.",
        ),
        title_question(spec.title),
    ]
    result += extreme_questions(
        spec.labels,
        spec.values,
        unit,
        f"{preposition.capitalize()} which {unit} is the value {{word}}?",
    )
    each = []
    for index, (label, value) in enumerate(_points(spec)):
        keys = (f"label {index}", f"value {index}")
        each.append(
            QAPair(
                "value",
                (
                    f"What is the value {preposition} {label}?",
                    f"What is the value of {label}?",
                    f"How much is {label}?",
                ),
                str(value),
                f"The value {preposition} {label} is {value}.",
                keys,
            )
        )
        each.append(
            QAPair(
                "label",
                (f"Which {unit} has the value {value}?",),
                label,
                f"The {unit} with the value {value} is {label}.",
                keys,
            )
        )
    for index in range(1, count):
        first, second = spec.labels[index - 1], spec.labels[index]
        word = "up" if spec.values[index] > spec.values[index - 1] else "down"
        each.append(
            QAPair(
                "trend",
                (f"Does the line go up or down from {first} to {second}?",),
                word,
                f"The line goes {word} from {first} to {second}.",
                (f"label {index - 1}", f"label {index}"),
            )
        )
    return result + rng.sample(each, min(5, len(each)))


def _points(spec: Spec) -> list[tuple[str, int]]:
    return list(zip(spec.labels, spec.values, strict=True))


def draw(
    spec: Spec,
    rng: Random,
    split: Split,
    size: tuple[int, int] | None = None,
    style: Style = SHIPPED,
) -> Canvas:
    """Render the chart."""
    size = size or choose_size(rng, "wide", style.caps)
    paper = dark(rng) if rng.random() < 0.15 else pale(rng)
    canvas = Canvas(size, choose_background(size, paper, rng, depth=10), caps=style.caps)
    ink = ink_on(paper, rng, 6)
    cap = canvas.choose_cap(rng, 14)
    face = choose_face(rng, split, cap)
    max_title_cap = (canvas.height - 50 - 6 * cap) / 2
    title_cap = canvas.choose_title_cap(rng, spec.title, face, cap, max_title_cap)
    canvas.text(
        spec.title, canvas.width / 2, 6 + title_cap, face, title_cap, ink, "middle", "title"
    )
    slot = (canvas.width - 12) / len(spec.labels)
    cap = canvas.fitting_cap([*spec.labels, *map(str, spec.values)], face, cap, slot - 4)
    floor = canvas.height - 8 - cap * 2
    top = 14 + title_cap * 2 + cap * 2.4
    low, high = min(spec.values), max(spec.values)
    base = floor - 6 - cap * 1.6
    positions = [
        (6 + slot * (i + 0.5), base - (base - top) * (value - low) / (high - low))
        for i, value in enumerate(spec.values)
    ]
    canvas.line([(6, floor), (canvas.width - 6, floor)], ink, 1)
    if rng.random() < 0.5:
        canvas.line([(6, top - cap * 2), (6, floor)], ink, 1)
    paint = _visible(spec.color, paper, rng)
    canvas.line(positions, paint, rng.uniform(1.2, 2.6))
    radius = rng.uniform(4, 7)
    for index, (x, y) in enumerate(positions):
        draw_shape(canvas, spec.marker, x, y, radius, paint, spec.color)
        text = str(spec.values[index])
        shift, up = _free_side(spec.values, index)
        aside = x + shift * (canvas.text_width(text, face, cap) * 0.5 + 1)
        offset = radius / 2 + 3 + cap * 0.6
        canvas.text(
            text,
            aside,
            y - offset if up else y + offset,
            face,
            cap,
            ink,
            "middle",
            f"value {index}",
        )
        canvas.text(
            spec.labels[index],
            x,
            floor + 4 + cap * 0.8,
            face,
            cap,
            ink,
            "middle",
            f"label {index}",
        )
    return canvas


def _free_side(values: tuple[int, ...], index: int) -> tuple[float, bool]:
    # Values go above a peak, below a valley, and on a slope above and beside the line.
    here = values[index]
    if index in (0, len(values) - 1):
        return 0.0, here > values[1 if index == 0 else -2]
    left, right = values[index - 1], values[index + 1]
    if left < here < right:
        return -0.7, True
    if left > here > right:
        return 0.7, True
    return 0.0, here > left


def _visible(name: str, paper: Color, rng: Random) -> Color:
    paint = shade(name, rng)
    for _ in range(8):
        if contrast(paint, paper) >= 1.35:
            break
        paint = shade(name, rng)
    return paint

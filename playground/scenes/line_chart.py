"""Line charts over months or days, with the value printed at every point."""

from dataclasses import dataclass
from random import Random

from playground.backgrounds import choose_background
from playground.canvas import Canvas, choose_cap, choose_size
from playground.colors import VIVID, Color, contrast, dark, ink_on, pale, shade
from playground.fonts import choose_face
from playground.sample import Split
from playground.scenes.asking import Ask
from playground.scenes.chart import ask_extremes, ask_title
from playground.shapes import draw_shape
from playground.words import DAYS, MONTHS, choose_spread, choose_words


@dataclass(frozen=True)
class Facts:
    """Points from left to right; no two have the same value.

    Attributes:
        marker: shape of the points; squares only in held-out images.
    """

    title: str
    unit: str
    labels: tuple[str, ...]
    values: tuple[int, ...]
    color: str
    marker: str


def choose_facts(rng: Random, split: Split) -> Facts:
    """Draw the points."""
    unit, names = rng.choice((("month", MONTHS), ("day", DAYS)))
    count = rng.randint(3, 5)
    start = rng.randrange(len(names) - count + 1)
    most = rng.choice((40, 60, 100, 300, 900))
    values = choose_spread(rng, split, count, max(1, most // 12), most, 0.06)
    held_out = split == "held_out" and rng.random() < 0.3
    return Facts(
        choose_words(rng, split, 1, "business")[0],
        unit,
        names[start : start + count],
        values,
        rng.choice(VIVID),
        "square" if held_out else "circle",
    )


def sentences(facts: Facts) -> list[str]:
    """The facts in words, one sentence each."""
    points = ", ".join(f"{label} {value}" for label, value in _points(facts))
    return [
        f'A line chart with the title "{facts.title}".',
        f"Its points are {points}.",
        f"The line is {facts.color}.",
    ]


def asks(facts: Facts, rng: Random) -> list[Ask]:
    """All that can be asked about the line."""
    unit, count = facts.unit, len(facts.labels)
    preposition = "in" if unit == "month" else "on"
    found = [
        Ask("color", ("What color is the line?",), facts.color, f"The line is {facts.color}."),
        Ask(
            "points",
            ("How many points does the line have?",),
            str(count),
            f"The line has {count} points.",
        ),
        ask_title(facts.title),
    ]
    found += ask_extremes(
        facts.labels,
        facts.values,
        unit,
        f"{preposition.capitalize()} which {unit} is the value {{word}}?",
    )
    each = []
    for index, (label, value) in enumerate(_points(facts)):
        keys = (f"label {index}", f"value {index}")
        each.append(
            Ask(
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
            Ask(
                "label",
                (f"Which {unit} has the value {value}?",),
                label,
                f"The {unit} with the value {value} is {label}.",
                keys,
            )
        )
    for index in range(1, count):
        first, second = facts.labels[index - 1], facts.labels[index]
        word = "up" if facts.values[index] > facts.values[index - 1] else "down"
        each.append(
            Ask(
                "trend",
                (f"Does the line go up or down from {first} to {second}?",),
                word,
                f"The line goes {word} from {first} to {second}.",
                (f"label {index - 1}", f"label {index}"),
            )
        )
    return found + rng.sample(each, min(5, len(each)))


def _points(facts: Facts) -> list[tuple[str, int]]:
    return list(zip(facts.labels, facts.values, strict=True))


def draw(facts: Facts, rng: Random, split: Split, size: tuple[int, int] | None = None) -> Canvas:
    """Draw the chart."""
    size = size or choose_size(rng, "wide")
    paper = dark(rng) if rng.random() < 0.15 else pale(rng)
    canvas = Canvas(size, choose_background(size, paper, rng, depth=10))
    ink = ink_on(paper, rng, 6)
    cap = choose_cap(rng, canvas.smallest_cap, max(canvas.smallest_cap, 14))
    face = choose_face(rng, split, cap)
    title_cap = choose_cap(rng, cap, max(cap, 16))
    canvas.text(
        facts.title, canvas.width / 2, 6 + title_cap, face, title_cap, ink, "middle", "title"
    )
    slot = (canvas.width - 12) / len(facts.labels)
    cap = canvas.fitting_cap([*facts.labels, *map(str, facts.values)], face, cap, slot - 4)
    floor = canvas.height - 8 - cap * 2
    top = 14 + title_cap * 2 + cap * 2.4
    low, high = min(facts.values), max(facts.values)
    base = floor - 6 - cap * 1.6
    places = [
        (6 + slot * (i + 0.5), base - (base - top) * (value - low) / (high - low))
        for i, value in enumerate(facts.values)
    ]
    canvas.line([(6, floor), (canvas.width - 6, floor)], ink, 1)
    if rng.random() < 0.5:
        canvas.line([(6, top - cap * 2), (6, floor)], ink, 1)
    paint = _visible(facts.color, paper, rng)
    canvas.line(places, paint, rng.uniform(1.2, 2.6))
    radius = rng.uniform(4, 7)
    for index, (x, y) in enumerate(places):
        draw_shape(canvas, facts.marker, x, y, radius, paint, facts.color)
        text = str(facts.values[index])
        shift, up = _free_side(facts.values, index)
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
            facts.labels[index],
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
    # Above a peak and below a valley the paper is free; on a slope beside and above the line.
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

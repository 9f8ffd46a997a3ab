"""Bar charts, vertical or horizontal, with the value printed at every bar."""

from dataclasses import dataclass
from random import Random

from playground.backgrounds import choose_background
from playground.canvas import MIN_PITCH, Canvas
from playground.colors import VIVID, Color, dark, ink_on, pale, shade
from playground.faces import Face
from playground.fonts import choose_face
from playground.image_sizes import choose_size
from playground.sample import Split
from playground.scenes.chart import extreme_questions, title_question
from playground.scenes.qa import QAPair
from playground.style import SHIPPED, Style
from playground.words import DAYS, MONTHS, choose_spread, choose_words

THEMES = ("names", "food", "animals", "objects")
LONGEST_VERTICAL = 6  # characters of a label below a vertical bar
SHORTEST_LABELS = 5  # characters; only months and days have enough shorter words
LABEL_SHARE = 0.42  # maximum share of the width for the labels of horizontal bars


@dataclass(frozen=True)
class Spec:
    """Content of a bar chart: bars from left to right or top to bottom, with different values.

    Attributes:
        colors: colour of each bar; all the same or all different.
        horizontal: whether bars are horizontal.
        hollow: whether bars are outlines; only in held-out images.
    """

    title: str
    labels: tuple[str, ...]
    values: tuple[int, ...]
    colors: tuple[str, ...]
    horizontal: bool
    hollow: bool


def choose_spec(rng: Random, split: Split, style: Style = SHIPPED) -> Spec:
    """Sample the spec of a bar chart: labels, values, colours, orientation."""
    caps = style.caps
    count = rng.randint(3, max(3, min(5, caps.columns // 5)))
    longest = min(LONGEST_VERTICAL, caps.columns // count)
    horizontal = rng.random() < 0.4
    if longest < SHORTEST_LABELS:
        theme = rng.choice(("months", "days"))
    else:
        theme = rng.choice((*THEMES, "months", "days"))
    if theme not in THEMES:
        names = MONTHS if theme == "months" else DAYS
        start = rng.randrange(len(names) - count + 1)
        labels = list(names[start : start + count])
    elif horizontal:
        labels = choose_words(rng, split, count, theme, int(LABEL_SHARE * caps.columns))
    else:
        labels = []
        while len(labels) < count:
            word = choose_words(rng, split, 1, rng.choice(THEMES))[0]
            if len(word) <= longest and word not in labels:
                labels.append(word)
    # The extreme bars must be visibly longest and shortest, not only by their printed values.
    max_value = rng.choice((40, 60, 100, 300, 900))
    values = choose_spread(rng, split, count, max(1, max_value // 12), max_value, 0.06)
    if rng.random() < 0.5:
        # A bar labelled "Orange" would make "the orange bar" ambiguous.
        free = [color for color in VIVID if color.capitalize() not in labels]
        colors = rng.sample(free, count)
    else:
        colors = [rng.choice((*VIVID, "gray"))] * count
    return Spec(
        choose_words(rng, split, 1, "business")[0],
        tuple(labels),
        values,
        tuple(colors),
        horizontal,
        split == "held_out" and rng.random() < 0.25,
    )


def sentences(spec: Spec) -> list[str]:
    """Describe the spec in sentences, for the caption."""
    bars = ", ".join(f"{label} {value}" for label, value in _bars(spec))
    lines = [
        f'A bar chart with the title "{spec.title}".',
        f"It has {len(spec.labels)} bars: {bars}.",
    ]
    if len(set(spec.colors)) > 1:
        pairs = zip(spec.labels, spec.colors, strict=True)
        lines.append(
            "The colors are " + ", ".join(f"{name} {color}" for name, color in pairs) + "."
        )
    else:
        lines.append(f"The bars are {spec.colors[0]}.")
    return lines


def qa_pairs(spec: Spec, rng: Random) -> list[QAPair]:
    """List the questions about the bars, with answers."""
    count = len(spec.labels)
    result = [
        QAPair(
            "bars",
            ("How many bars are there?", "How many bars does the chart have?"),
            str(count),
            f"There are {count} bars.",
        ),
        title_question(spec.title),
    ]
    result += extreme_questions(spec.labels, spec.values, "bar", "What has the {word} value?")
    each = []
    for index, (label, value) in enumerate(_bars(spec)):
        keys = (f"label {index}", f"value {index}")
        each.append(
            QAPair(
                "value",
                (
                    f"What is the value of {label}?",
                    f"What value does {label} have?",
                    f"How much is {label}?",
                ),
                str(value),
                f"The value of {label} is {value}.",
                keys,
            )
        )
        each.append(
            QAPair(
                "label",
                (f"Which bar has the value {value}?",),
                label,
                f"The bar with the value {value} is {label}.",
                keys,
            )
        )
        if len(set(spec.colors)) > 1:
            color = spec.colors[index]
            each.append(
                QAPair(
                    "color",
                    (
                        f"What color is the bar of {label}?",
                        f"What is the color of the {label} bar?",
                    ),
                    color,
                    f"The bar of {label} is {color}.",
                    keys[:1],
                )
            )
            each.append(
                QAPair(
                    "color value",
                    (f"What is the value of the {color} bar?",),
                    str(value),
                    f"The value of the {color} bar is {value}.",
                    keys[1:],
                )
            )
    if len(set(spec.colors)) == 1:
        result.append(
            QAPair(
                "color",
                ("What color are the bars?",),
                spec.colors[0],
                f"The bars are {spec.colors[0]}.",
            )
        )
    return result + rng.sample(each, min(5, len(each)))


def _bars(spec: Spec) -> list[tuple[str, int]]:
    return list(zip(spec.labels, spec.values, strict=True))


def draw(
    spec: Spec,
    rng: Random,
    split: Split,
    size: tuple[int, int] | None = None,
    style: Style = SHIPPED,
) -> Canvas:
    """Render the chart."""
    size = size or choose_size(rng, "tall" if spec.horizontal else "wide", style.caps)
    paper = dark(rng) if rng.random() < 0.15 else pale(rng)
    canvas = Canvas(size, choose_background(size, paper, rng, depth=10), caps=style.caps)
    ink = ink_on(paper, rng, 6)
    cap = canvas.choose_cap(rng, 15)
    face = choose_face(rng, split, cap)
    bars = max(MIN_PITCH, 1.8 * cap) * len(spec.labels) if spec.horizontal else 46 + 4.2 * cap
    max_title_cap = (canvas.height - 14 - bars) / 2
    title_cap = canvas.choose_title_cap(rng, spec.title, face, cap, max_title_cap)
    canvas.text(
        spec.title, canvas.width / 2, 6 + title_cap, face, title_cap, ink, "middle", "title"
    )
    top = 10 + title_cap * 2
    paints = _paints(spec, rng)
    draw_bars = _draw_horizontal if spec.horizontal else _draw_vertical
    draw_bars(canvas, spec, top, face, cap, ink, paints)
    return canvas


def _paints(spec: Spec, rng: Random) -> list[Color]:
    if len(set(spec.colors)) == 1:
        return [shade(spec.colors[0], rng)] * len(spec.colors)
    return [shade(color, rng) for color in spec.colors]


def _draw_vertical(
    canvas: Canvas,
    spec: Spec,
    top: float,
    face: Face,
    cap: float,
    ink: Color,
    paints: list[Color],
) -> None:
    count = len(spec.labels)
    slot = (canvas.width - 16) / count
    cap = canvas.fitting_cap([*spec.labels, *map(str, spec.values)], face, cap, slot - 4)
    floor = canvas.height - 8 - cap * 2
    tallest = floor - top - cap * 2.2
    for index, (label, value) in enumerate(_bars(spec)):
        x = 8 + slot * (index + 0.5)
        height = max(3.0, tallest * value / max(spec.values))
        half = slot * 0.32
        _draw_bar(canvas, spec, paints[index], x - half, floor - height, x + half, floor)
        canvas.add_object("bar", spec.colors[index], x - half, floor - height, x + half, floor)
        canvas.text(
            str(value), x, floor - height - cap * 1.1, face, cap, ink, "middle", f"value {index}"
        )
        canvas.text(label, x, floor + 4 + cap * 0.8, face, cap, ink, "middle", f"label {index}")
    canvas.line([(6, floor), (canvas.width - 6, floor)], ink, 1)


def _draw_horizontal(
    canvas: Canvas,
    spec: Spec,
    top: float,
    face: Face,
    cap: float,
    ink: Color,
    paints: list[Color],
) -> None:
    count = len(spec.labels)
    slot = (canvas.height - top - 4) / count
    slot = canvas.fitting_pitch(slot, slot)
    cap = canvas.lowered_cap(cap, slot / 1.8)
    cap = canvas.fitting_cap(list(spec.labels), face, cap, canvas.width * LABEL_SHARE)
    left = 8 + max(canvas.text_width(label, face, cap) for label in spec.labels)
    longest = canvas.width - left - 10 - canvas.text_width("0000", face, cap)
    for index, (label, value) in enumerate(_bars(spec)):
        y = top + slot * (index + 0.5)
        length = max(3.0, longest * value / max(spec.values))
        half = slot * 0.32
        _draw_bar(canvas, spec, paints[index], left, y - half, left + length, y + half)
        canvas.add_object("bar", spec.colors[index], left, y - half, left + length, y + half)
        canvas.text(label, left - 4, y, face, cap, ink, "right", f"label {index}")
        canvas.text(str(value), left + length + 4, y, face, cap, ink, "left", f"value {index}")
    canvas.line([(left, top), (left, canvas.height - 4)], ink, 1)


def _draw_bar(
    canvas: Canvas, spec: Spec, paint: Color, x0: float, y0: float, x1: float, y1: float
) -> None:
    if spec.hollow:
        canvas.box(x0, y0, x1, y1, outline=paint, line=4)
    else:
        canvas.box(x0, y0, x1, y1, fill=paint)

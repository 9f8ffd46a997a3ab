"""Emoji scattered over an image, with questions about positions and counts."""

from collections import Counter
from dataclasses import dataclass
from random import Random

from playground.backgrounds import choose_background
from playground.canvas import Canvas
from playground.colors import dark, pale
from playground.emoji import EMOJI, article, draw_emoji, plural
from playground.image_sizes import choose_size
from playground.sample import Split
from playground.scenes.qa import QAPair, count_question, yes_no_question
from playground.style import SHIPPED, Style

POSITIONS = {
    "pair": ("on the left", "on the right"),
    "column": ("at the top", "at the bottom"),
    "row": ("on the left", "in the middle", "on the right"),
    "corners": ("in the top left", "in the top right", "in the bottom left", "in the bottom right"),
    "stack": ("at the top", "in the middle", "at the bottom"),
}
CENTERS = {
    "pair": ((0.25, 0.5), (0.75, 0.5)),
    "column": ((0.5, 0.25), (0.5, 0.75)),
    "row": ((1 / 6, 0.5), (0.5, 0.5), (5 / 6, 0.5)),
    "corners": ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)),
    "stack": ((0.5, 1 / 6), (0.5, 0.5), (0.5, 5 / 6)),
}
GRIDS = {"pair": (2, 1), "column": (1, 2), "row": (3, 1), "corners": (2, 2), "stack": (1, 3)}
TRAIN_LAYOUTS = ("pair", "column", "row", "corners", "crowd", "crowd")
HELD_OUT_LAYOUTS = ("stack",)
CROWD = 3  # cells per side of the layout "crowd"


@dataclass(frozen=True)
class Spec:
    """Content of an emoji scene: layout and names, one per position or, in "crowd", per cell.

    Attributes:
        cells: index of the position or cell of each emoji.
        absent: name of an emoji that is not in the image.
    """

    layout: str
    names: tuple[str, ...]
    cells: tuple[int, ...]
    absent: str


def choose_spec(rng: Random, split: Split, style: Style = SHIPPED) -> Spec:
    """Sample the spec of an emoji scene: layout, names and cells."""
    held_out = split == "held_out" and rng.random() < 0.3
    layout = rng.choice(HELD_OUT_LAYOUTS if held_out else TRAIN_LAYOUTS)
    if layout == "crowd":
        kinds = rng.sample(tuple(EMOJI), rng.randint(2, 4))
        names = tuple(rng.choice(kinds[1:]) for _ in range(rng.randint(3, 6)))
        cells = tuple(sorted(rng.sample(range(CROWD * CROWD), len(names))))
        return Spec(layout, names, cells, kinds[0])
    *names, absent = rng.sample(tuple(EMOJI), len(POSITIONS[layout]) + 1)
    if layout == "corners" and rng.random() < 0.4:
        names[rng.randrange(4)] = rng.choice(names)
    return Spec(layout, tuple(names), tuple(range(len(names))), absent)


def sentences(spec: Spec) -> list[str]:
    """Describe the spec in sentences, for the caption."""
    if spec.layout == "crowd":
        counts = Counter(spec.names)
        listed = ", ".join(
            f"{n} {plural(name)}" if n > 1 else f"1 {name}" for name, n in counts.items()
        )
        return [f"A picture of {listed}."]
    return [
        f"There is {article(name)} {position}."
        for name, position in zip(spec.names, POSITIONS[spec.layout], strict=True)
    ]


def qa_pairs(spec: Spec, rng: Random) -> list[QAPair]:
    """List the questions about the emoji, with answers."""
    counts = Counter(spec.names)
    result = []
    for name in rng.sample(sorted(counts), min(2, len(counts))):
        count, many = counts[name], plural(name)
        sentence = f"There are {count} {many}." if count > 1 else f"There is {article(name)}."
        result.append(count_question("count", many, count, sentence))
    claims = [spec.absent, rng.choice(spec.names)]
    rng.shuffle(claims)
    for claim in claims:
        result.append(
            yes_no_question(
                "check",
                (
                    f"Is there {article(claim)}?",
                    f"Do you see {article(claim)}?",
                    f"Is there {article(claim)} in the image?",
                ),
                claim in counts,
                f"Yes, there is {article(claim)}.",
                f"No, there is no {claim}.",
            )
        )
    result.append(
        QAPair(
            "all",
            ("How many things are there in total?",),
            str(len(spec.names)),
            f"There are {len(spec.names)} things in total.",
        )
    )
    if spec.layout == "crowd":
        return result
    for name, position in zip(spec.names, POSITIONS[spec.layout], strict=True):
        result.append(
            QAPair(
                "what",
                (f"What is {position}?", f"What do you see {position}?"),
                name,
                f"There is {article(name)} {position}.",
            )
        )
        if counts[name] == 1:
            result.append(
                QAPair("where", (f"Where is the {name}?",), position, f"The {name} is {position}.")
            )
    return result


def draw(
    spec: Spec,
    rng: Random,
    split: Split,
    size: tuple[int, int] | None = None,
    style: Style = SHIPPED,
) -> Canvas:
    """Render the emoji, without overlap."""
    size = size or choose_size(rng, caps=style.caps)
    paper = pale(rng) if rng.random() < 0.7 else dark(rng)
    canvas = Canvas(size, choose_background(size, paper, rng))
    for name, cell in zip(spec.names, spec.cells, strict=True):
        if spec.layout == "crowd":
            row, column = divmod(cell, CROWD)
            center, grid = ((column + 0.5) / CROWD, (row + 0.5) / CROWD), (CROWD, CROWD)
        else:
            center, grid = CENTERS[spec.layout][cell], GRIDS[spec.layout]
        wide, high = canvas.width / grid[0], canvas.height / grid[1]
        side = min(wide, high, 120) * rng.uniform(0.45, 0.8)
        x = center[0] * canvas.width + rng.uniform(-1, 1) * min(wide * 0.12, (wide - side) / 2 - 2)
        y = center[1] * canvas.height + rng.uniform(-1, 1) * min(high * 0.15, (high - side) / 2 - 2)
        draw_emoji(canvas, name, x, y, side)
    return canvas

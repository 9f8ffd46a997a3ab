"""Coloured shapes in a jittered grid, with questions about kinds, colours, counts, positions."""

from collections import Counter
from dataclasses import dataclass
from random import Random

from playground.backgrounds import choose_background
from playground.canvas import Canvas
from playground.colors import COLORS, VIVID, Color, contrast, dark, pale, shade
from playground.emoji import article, plural
from playground.image_sizes import choose_size
from playground.sample import Split
from playground.scenes.qa import QAPair, count_question, yes_no_question
from playground.shapes import SHAPES, draw_shape
from playground.style import SHIPPED, Style

TRAIN_GRIDS = ((1, 2), (2, 1), (1, 3), (2, 2), (2, 3))  # rows, columns
HELD_OUT_GRIDS = ((3, 2),)


@dataclass(frozen=True)
class Item:
    """A shape in a cell of the grid; rows and columns are counted from the upper left."""

    shape: str
    color: str
    row: int
    column: int

    @property
    def name(self) -> str:
        """Its name in answers, such as "red circle"."""
        return f"{self.color} {self.shape}"


@dataclass(frozen=True)
class Spec:
    """Content of a shapes scene.

    Attributes:
        grid: number of rows and columns.
        items: shapes in reading order.
        absent: name of a shape that is not in the image.
    """

    grid: tuple[int, int]
    items: tuple[Item, ...]
    absent: str


def choose_spec(rng: Random, split: Split, style: Style = SHIPPED) -> Spec:
    """Sample the spec of a shapes scene: grid and items.

    Kinds and colours are few, so that some occur more than once.
    """
    held_out = split == "held_out" and rng.random() < 0.3
    grid = rng.choice(HELD_OUT_GRIDS if held_out else TRAIN_GRIDS)
    cells = [(row, column) for row in range(grid[0]) for column in range(grid[1])]
    count = rng.randint(max(1, len(cells) - 3), len(cells))
    shapes = rng.sample(SHAPES, rng.randint(1, 4))
    colors = rng.sample(VIVID, rng.randint(2, 4))
    items = tuple(
        Item(rng.choice(shapes), rng.choice(colors), *cell)
        for cell in sorted(rng.sample(cells, count))
    )
    names = {item.name for item in items}
    absent = next(iter(names))
    while absent in names:
        absent = f"{rng.choice(VIVID if rng.random() < 0.4 else colors)} {rng.choice(SHAPES)}"
    return Spec(grid, items, absent)


def sentences(spec: Spec) -> list[str]:
    """Describe the spec in sentences, for the caption."""
    rows: dict[int, list[str]] = {}
    for item in spec.items:
        rows.setdefault(item.row, []).append(article(item.name))
    count = len(spec.items)
    lines = [f"A picture with {count} shapes." if count > 1 else "A picture with 1 shape."]
    names = ("top row", "middle row", "bottom row")
    names = (names[0], names[2]) if spec.grid[0] == 2 else names
    for row, listed in sorted(rows.items()):
        where = f"In the {names[row]}, from" if spec.grid[0] > 1 else "From"
        lines.append(f"{where} left to right: {', '.join(listed)}.")
    return lines


def qa_pairs(spec: Spec, rng: Random) -> list[QAPair]:
    """List the questions about the shapes, with answers."""
    items = spec.items
    shapes = Counter(item.shape for item in items)
    colors = Counter(item.color for item in items)
    names = Counter(item.name for item in items)
    result = [_count("shapes", "shape", len(items)), *_corner_pairs(spec, rng)]
    for shape in rng.sample(sorted(shapes), min(2, len(shapes))):
        result.append(_count("count shape", shape, shapes[shape]))
    for color in rng.sample(sorted(colors), min(2, len(colors))):
        result.append(_count("count color", f"{color} shape", colors[color]))
    name = spec.absent if rng.random() < 0.15 else rng.choice(sorted(names))
    result.append(_count("count both", name, names[name]))
    claim = rng.choice((spec.absent, rng.choice(sorted(names))))
    result.append(
        yes_no_question(
            "check",
            (f"Is there {article(claim)}?", f"Is there {article(claim)} in the image?"),
            claim in names,
            f"Yes, there is {article(claim)}.",
            f"No, there is no {claim}.",
        )
    )
    for item in items:
        if shapes[item.shape] == 1:
            result.append(
                QAPair(
                    "color",
                    (f"What color is the {item.shape}?", f"What is the color of the {item.shape}?"),
                    item.color,
                    f"The {item.shape} is {item.color}.",
                )
            )
        if len(items) == 1:
            result.append(
                QAPair(
                    "shape",
                    (
                        "What shape is this?",
                        "Which shape is in the image?",
                        "What shape do you see?",
                    ),
                    item.shape,
                    f"It is {article(item.shape)}.",
                )
            )
        elif colors[item.color] == 1:
            result.append(
                QAPair(
                    "shape",
                    (f"What shape is {item.color}?", f"Which shape is {item.color}?"),
                    item.shape,
                    f"The {item.color} shape is {article(item.shape)}.",
                )
            )
    beside = [
        pair
        for item in items
        if names[item.name] == 1
        for pair in _beside(item, items, not _is_full(spec))
    ]
    return result + rng.sample(beside, min(2, len(beside)))


def _count(kind: str, name: str, count: int) -> QAPair:
    many = plural(name)
    sentence = f"There are {count} {many}." if count != 1 else f"There is 1 {name}."
    return count_question(kind, many, count, sentence)


def _corner_pairs(spec: Spec, rng: Random) -> list[QAPair]:
    rows, columns = spec.grid
    if (rows, columns) == (1, 2):
        positions = {(0, 0): "on the left", (0, 1): "on the right"}
    elif (rows, columns) == (2, 1):
        positions = {(0, 0): "at the top", (1, 0): "at the bottom"}
    elif rows > 1 and columns > 1:
        positions = {
            (0, 0): "in the top left",
            (0, columns - 1): "in the top right",
            (rows - 1, 0): "in the bottom left",
            (rows - 1, columns - 1): "in the bottom right",
        }
    else:
        return []
    result = []
    for item in spec.items:
        position = positions.get((item.row, item.column))
        if position:
            result.append(
                QAPair(
                    "corner",
                    (f"What is {position}?", f"Which shape is {position}?"),
                    item.name,
                    f"There is {article(item.name)} {position}.",
                    needs_image=not _is_full(spec),
                )
            )
    return rng.sample(result, min(2, len(result)))


def _is_full(spec: Spec) -> bool:
    # The caption does not say which cells of the grid are empty.
    return len(spec.items) == spec.grid[0] * spec.grid[1]


def _beside(item: Item, items: tuple[Item, ...], needs_image: bool) -> list[QAPair]:
    result = []
    for words, row, column in (
        ("directly left of", 0, -1),
        ("directly right of", 0, 1),
        ("directly above", -1, 0),
        ("directly below", 1, 0),
    ):
        for other in items:
            if (other.row, other.column) == (item.row + row, item.column + column):
                result.append(
                    QAPair(
                        "beside",
                        (
                            f"What is {words} the {item.name}?",
                            f"Which shape is {words} the {item.name}?",
                        ),
                        other.name,
                        f"There is {article(other.name)} {words} the {item.name}.",
                        needs_image=needs_image,
                    )
                )
    return result


def draw(
    spec: Spec,
    rng: Random,
    split: Split,
    size: tuple[int, int] | None = None,
    style: Style = SHIPPED,
) -> Canvas:
    """Render the shapes, each inside its cell."""
    size = size or choose_size(rng, caps=style.caps)
    paper = _paper(spec, rng)
    canvas = Canvas(size, choose_background(size, paper, rng, depth=12))
    rows, columns = spec.grid
    high, wide = canvas.height / rows, canvas.width / columns
    for item in spec.items:
        side = min(high, wide, 130) * rng.uniform(0.42, 0.78)
        x = wide * (item.column + 0.5) + rng.uniform(-1, 1) * min(
            wide * 0.12, (wide - side) / 2 - 3
        )
        y = high * (item.row + 0.5) + rng.uniform(-1, 1) * min(high * 0.12, (high - side) / 2 - 3)
        draw_shape(canvas, item.shape, x, y, side, shade(item.color, rng), item.color)
    return canvas


def _paper(spec: Spec, rng: Random) -> Color:
    while True:
        paper = pale(rng) if rng.random() < 0.6 else dark(rng)
        if all(contrast(COLORS[item.color], paper) > 1.25 for item in spec.items):
            return paper

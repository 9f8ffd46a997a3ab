"""Tables of numbers with row and column headers."""

from dataclasses import dataclass
from random import Random

from playground.backgrounds import choose_background
from playground.canvas import Canvas
from playground.colors import VIVID, Color, contrast, ink_on, pale, shade
from playground.faces import Face
from playground.fonts import choose_face
from playground.image_sizes import choose_size
from playground.sample import Split
from playground.scenes.qa import ORDINALS, QAPair
from playground.style import SHIPPED, Style
from playground.words import choose_spread, choose_words

COLUMNS = (
    "Age",
    "Price",
    "Stock",
    "Score",
    "Size",
    "Rank",
    "Cost",
    "Weight",
    "Height",
    "Year",
    "Count",
    "Speed",
    "Level",
    "Length",
    "Width",
    "Grade",
)
CORNERS = {
    "names": "Name",
    "food": "Item",
    "places": "Place",
    "objects": "Item",
    "animals": "Animal",
}
MIN_TWO_COLUMNS = 16  # minimum characters per line of a table with two columns of numbers
HELD_OUT_SIZES = ((3, 2),)  # rows, columns of numbers


@dataclass(frozen=True)
class Spec:
    """Content of a table; the numbers of a column are all different.

    Attributes:
        corner: header of the column of row names.
    """

    corner: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    cells: tuple[tuple[int, ...], ...]


def choose_spec(rng: Random, split: Split, style: Style = SHIPPED) -> Spec:
    """Sample the spec of a table: headers, row names, numbers."""
    caps = style.caps
    max_shape = min(4, caps.lines - 1), 2 if caps.columns >= MIN_TWO_COLUMNS else 1
    while True:
        shape = rng.randint(2, max_shape[0]), rng.randint(1, max_shape[1])
        if split == "held_out" and rng.random() < 0.3:
            shape = rng.choice(HELD_OUT_SIZES)
        fits = shape[0] <= max_shape[0] and shape[1] <= max_shape[1]
        if fits and (split == "held_out" or shape not in HELD_OUT_SIZES):
            break
    # Maximum characters of a name, a header and a number that fit into a line.
    longest = caps.columns - 6 * shape[1]
    longest_header, digits = max(4, caps.columns // 4), max(2, caps.columns // 6)
    theme = rng.choice([t for t, corner in CORNERS.items() if len(corner) <= max(4, longest)])
    max_values = [value for value in (60, 99, 999) if len(str(value)) <= digits]
    columns = [
        choose_spread(rng, split, shape[0], 1, rng.choice(max_values), 0.08)
        for _ in range(shape[1])
    ]
    headers = [header for header in COLUMNS if len(header) <= longest_header]
    return Spec(
        CORNERS[theme],
        tuple(rng.sample(headers, shape[1])),
        tuple(choose_words(rng, split, shape[0], theme, longest)),
        tuple(zip(*columns, strict=True)),
    )


def sentences(spec: Spec) -> list[str]:
    """Describe the spec in sentences, for the caption."""
    lines = [
        f"A table of {len(spec.rows)} rows with the columns {spec.corner}, "
        f"{', '.join(spec.columns)}."
    ]
    for row, cells in zip(spec.rows, spec.cells, strict=True):
        listed = ", ".join(f"{name} {cell}" for name, cell in zip(spec.columns, cells, strict=True))
        lines.append(f"{row}: {listed}.")
    return lines


def qa_pairs(spec: Spec, rng: Random) -> list[QAPair]:
    """List the questions about the table, with answers."""
    result = []
    corner = spec.corner.lower()
    for i, row in enumerate(spec.rows):
        for j, column in enumerate(spec.columns):
            cell, low = spec.cells[i][j], column.lower()
            result.append(
                QAPair(
                    "cell",
                    (
                        f"What is the {low} of {row}?",
                        f"What is the {low} for {row}?",
                        f"What is the value in the {column} column for {row}?",
                    ),
                    str(cell),
                    f"The {low} of {row} is {cell}.",
                    ("table",),
                )
            )
            result.append(
                QAPair(
                    "row",
                    (
                        f"Which {corner} has the {low} {cell}?",
                        f"Which {corner} has {cell} in the {column} column?",
                    ),
                    row,
                    f"The {corner} with the {low} {cell} is {row}.",
                    ("table",),
                )
            )
    result = rng.sample(result, min(5, len(result)))
    column = rng.randrange(len(spec.columns))
    values = [cells[column] for cells in spec.cells]
    low = spec.columns[column].lower()
    for word, pick in (("highest", max), ("lowest", min)):
        value = pick(values)
        row = spec.rows[values.index(value)]
        result.append(
            QAPair(
                word,
                (f"Which {corner} has the {word} {low}?",),
                row,
                f"The {corner} with the {word} {low} is {row}.",
                ("table",),
                clue=str(value),
            )
        )
    result.append(
        QAPair(
            "rows",
            (
                "How many rows are below the header?",
                "How many rows does the table have without the header?",
            ),
            str(len(spec.rows)),
            f"There are {len(spec.rows)} rows below the header.",
        )
    )
    header = rng.randrange(len(spec.columns) + 1)
    name = (spec.corner, *spec.columns)[header]
    result.append(
        QAPair(
            "header",
            (f"What is the header of the {ORDINALS[header]} column?",),
            name,
            f"The header of the {ORDINALS[header]} column is {name}.",
            ("table",),
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
    """Render the table."""
    size = size or choose_size(rng, caps=style.caps)
    paper = pale(rng)
    canvas = Canvas(size, choose_background(size, paper, rng, depth=14), caps=style.caps)
    count = len(spec.rows) + 1
    cap = canvas.choose_cap(rng, 15, (canvas.height - 12) / count / 1.8)
    face = choose_face(rng, split, cap)
    grid: list[tuple[str, ...]] = [(spec.corner, *spec.columns)]
    grid += [(row, *map(str, cells)) for row, cells in zip(spec.rows, spec.cells, strict=True)]
    widths = _widths(canvas, grid, face, cap)
    if sum(widths) > canvas.width - 8:
        cap = canvas.shrunk_cap(cap, (canvas.width - 8) / sum(widths) * 0.98)
        widths = _widths(canvas, grid, face, cap)
    spare = canvas.width - 6 - sum(widths)
    extra = max(0.0, spare) * rng.random() ** 2 / len(widths)
    widths = [width + extra for width in widths]
    pitch = canvas.fitting_pitch(cap * rng.uniform(1.8, 2.6), (canvas.height - 6) / count)
    left = rng.uniform(3, max(3.0, canvas.width - sum(widths) - 3))
    top = rng.uniform(3, max(3.0, canvas.height - pitch * count - 3))
    _draw_grid(canvas, grid, widths, (left, top, pitch), face, cap, paper, rng)
    canvas.heights["table"] = cap
    return canvas


def _widths(canvas: Canvas, grid: list[tuple[str, ...]], face: Face, cap: float) -> list[float]:
    return [
        max(canvas.text_width(text, face, cap) for text in column) + 8 + cap * 0.6
        for column in zip(*grid, strict=True)
    ]


def _draw_grid(
    canvas: Canvas,
    grid: list[tuple[str, ...]],
    widths: list[float],
    origin: tuple[float, float, float],
    face: Face,
    cap: float,
    paper: Color,
    rng: Random,
) -> None:
    left, top, pitch = origin
    right, bottom = left + sum(widths), top + pitch * len(grid)
    ink = ink_on(paper, rng, 6)
    header = paper
    if rng.random() < 0.5:
        header = shade(rng.choice((*VIVID, "gray", "black")), rng)
        canvas.box(left, top, right, top + pitch, fill=header)
    stripe = (paper[0] - 16, paper[1] - 16, paper[2] - 16)
    lines = rng.choice(("all", "rows", "none"))
    striped = rng.random() < 0.3
    for i, texts in enumerate(grid):
        y = top + pitch * i
        if striped and i % 2 == 0 and i:
            canvas.box(left, y, right, y + pitch, fill=stripe)
        if lines != "none" and i:
            canvas.line([(left, y), (right, y)], ink, 0.8)
        x = left
        row_ink = ink if i or contrast(ink, header) > 4.5 else ink_on(header, rng, 4)
        for j, text in enumerate(texts):
            if j == 0:
                canvas.text(text, x + 4, y + pitch / 2, face, cap, row_ink)
            else:
                canvas.text(text, x + widths[j] - 4, y + pitch / 2, face, cap, row_ink, "right")
            x += widths[j]
    if lines == "all":
        canvas.box(left, top, right, bottom, outline=ink, line=0.8)
        for j in range(1, len(widths)):
            x = left + sum(widths[:j])
            canvas.line([(x, top), (x, bottom)], ink, 0.8)

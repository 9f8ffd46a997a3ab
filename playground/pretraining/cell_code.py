"""The code in which the nano language model reads a page: a vector for each cell of 32 pixels."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from playground.pretraining.targets import (
    CHARACTERS,
    HEIGHT_STEPS,
    SIDE,
    DenseTargets,
    slots,
)

CODE_FILE = "cell_code.safetensors"
TABLES = ("character", "thing", "color")
CELLS = SIDE * SIDE
SLOTS = 6  # characters of a cell, line by line
THUMBNAIL = 4  # pixels a side that a cell's 32 are averaged to


def cell_targets(targets: DenseTargets) -> dict[str, np.ndarray]:
    """What stands in each of the 144 cells, in the form that `CellCode` takes.

    characters, heights, before: (144, 6), line by line and from left to right; a cell keeps its
        first six characters.
    things, colors: (144, 4), of the four corners.
    middle_thing, middle_color: (144,), of the thing whose middle is there.
    thumbnail: (144, 48), from -1 to 1.
    words: (144, 95), how often each character is in the words that reach into the cell, divided by
        the root of their length.
    """
    step = len(targets.image) // (SIDE * THUMBNAIL)
    small = np.asarray(Image.fromarray(targets.image).reduce(step))
    small = small.reshape(SIDE, THUMBNAIL, SIDE, THUMBNAIL, 3).transpose(0, 2, 1, 3, 4)
    cells = {"thumbnail": (small.reshape(CELLS, -1) / 127.5 - 1).astype(np.float32)}
    for name in ("things", "colors"):
        cells[name] = slots(getattr(targets, name), 2, 2).reshape(CELLS, 4)
    cells["middle_thing"], cells["middle_color"] = targets.middles.reshape(CELLS, 2).T
    cells["words"] = _words(targets)
    for name in ("characters", "heights", "before"):
        cells[name] = np.zeros((CELLS, SLOTS), np.int64)
    filled = np.zeros(CELLS, np.int64)
    for cell, *values in _in_reading_order(targets):
        if filled[cell] < SLOTS:
            for name, value in zip(("characters", "heights", "before"), values, strict=True):
                cells[name][cell, filled[cell]] = value
            filled[cell] += 1
    return cells


def _words(targets: DenseTargets) -> np.ndarray:
    rows, columns = targets.characters.nonzero()
    characters, words = targets.characters[rows, columns], targets.words[rows, columns]
    letters = np.zeros((words.max(initial=0) + 1, len(CHARACTERS) + 1), np.float32)
    np.add.at(letters, (words, characters), 1)
    reaches = np.zeros((CELLS, len(letters)), np.float32)
    reaches[(rows // 4) * SIDE + columns // 8, words] = 1
    counts = reaches @ letters
    return counts / np.sqrt(counts.sum(1, keepdims=True)).clip(1)


def _in_reading_order(targets: DenseTargets) -> list[tuple[int, int, int, int]]:
    """(cell, character, height, character before) of all characters, line by line in each cell."""
    rows, columns = targets.characters.nonzero()
    cells = (rows // 4) * SIDE + columns // 8
    highest = np.full(CELLS, len(targets.characters))
    np.minimum.at(highest, cells, rows)
    line = rows - highest[cells] >= 2  # a second line is 16 pixels lower or more
    order = np.lexsort((columns, line, cells))
    listed = (targets.characters, targets.heights, targets.before)
    values = [grid[rows[order], columns[order]].tolist() for grid in listed]
    return list(zip(cells[order].tolist(), *values, strict=True))


class CellCode(nn.Module):
    """What stands in the cells (images, 144) as vectors (images, 144, width).

    A character, a thing and a colour are the language model's own tokens for them, turned by a
    matrix of the part they play: so what the model can do with text, it can nearly do with cells.

    Args:
        characters, things, colors: (number, width), the language model's embeddings of
            `CHARACTERS`, `THINGS` and `COLORS`.
    """

    def __init__(self, characters: Tensor, things: Tensor, colors: Tensor) -> None:
        super().__init__()
        width = characters.shape[1]
        self.scale = nn.Parameter(characters.std())
        tokens = [table / characters.std() for table in (characters, things, colors)]
        nothing = torch.zeros(1, width)
        self.character, self.thing, self.color = (
            nn.Parameter(torch.cat([nothing, table])) for table in tokens
        )
        self.turn = nn.Parameter(_turns(SLOTS, width))
        # What stands before it lets the model find the next character by the last one it wrote.
        self.before = nn.Parameter(torch.cat([torch.randn(1, width), tokens[0]]))
        self.turn_before = nn.Parameter(_turns(SLOTS, width, straight=0.0))
        # The letters of a whole word, in any order: a word is found by one match of vectors.
        self.turn_word = nn.Parameter(_turns(1, width)[0])
        self.height = nn.Embedding(HEIGHT_STEPS + 1, width)
        # Of the thing and the colour whose middle is here, and of those that cover the corners.
        self.turn_thing = nn.Parameter(_turns(2, width))
        self.turn_color = nn.Parameter(_turns(2, width))
        self.thumbnail = nn.Linear(3 * THUMBNAIL**2, width)
        # Rows and columns of their own: "in the same row" is then one match of vectors.
        self.row = nn.Parameter(1.5 * torch.randn(SIDE, 1, width))
        self.column = nn.Parameter(1.5 * torch.randn(1, SIDE, width))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Vectors (images, 144, width) of cells: those of `cell_targets`, stacked over images."""
        cells = self.thumbnail(batch["thumbnail"]) + (self.row + self.column).flatten(0, 1)
        cells = cells + batch["words"] @ (self.character @ self.turn_word)
        for name, table, turn in (
            ("thing", self.thing, self.turn_thing),
            ("color", self.color, self.turn_color),
        ):
            cells = cells + table[batch[f"middle_{name}"]] @ turn[0]
            cells = cells + 0.5 * table[batch[f"{name}s"]].mean(2) @ turn[1]
        flat = cells.flatten(0, 1)
        characters, heights, before = (
            batch[name].flatten(0, 1) for name in ("characters", "heights", "before")
        )
        # Most slots are empty: only the others are looked up.
        for slot in range(SLOTS):
            cell = characters[:, slot].nonzero().squeeze(1)
            standing = self.character[characters[cell, slot]] @ self.turn[slot]
            standing = standing + self.before[before[cell, slot]] @ self.turn_before[slot]
            standing = standing + 0.3 * self.height(heights[cell, slot])
            flat = flat.index_add(0, cell, standing)
        return (self.scale * flat).unflatten(0, cells.shape[:2])


def _turns(count: int, width: int, straight: float = 0.5) -> Tensor:
    rotations = torch.linalg.qr(torch.randn(count, width, width))[0]
    return (0.7 * rotations + straight * torch.eye(width)).contiguous()


def load_code(folder: Path) -> CellCode:
    """The code that was learnt with the language model of `folder`."""
    state = load_file(folder / CODE_FILE)
    code = CellCode(*(torch.randn_like(state[name][1:]) for name in TABLES))
    code.load_state_dict(state)
    return code.eval().requires_grad_(False)

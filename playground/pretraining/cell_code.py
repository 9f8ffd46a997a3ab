"""The code in which the nano language model reads a page: a vector for each cell of 32 pixels."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from playground.pretraining.targets import (
    COLOR_IDS,
    HEIGHT_STEPS,
    SIDE,
    THING_IDS,
    DenseTargets,
    slots,
)

CODE_FILE = "cell_code.safetensors"
CELLS = SIDE * SIDE
LINES, LONGEST = 2, 4  # characters are told apart by half (upper, lower) and by order within it
SLOTS = LINES * LONGEST
THUMBNAIL = 4  # pixels a side that a cell's 32 are averaged to


def cell_targets(targets: DenseTargets) -> dict[str, np.ndarray]:
    """What stands in each of the 144 cells, in the form that `CellCode` takes.

    characters, heights, before: (144, 8), of the upper half from left to right, then of the lower
        half; a half keeps its first four characters.
    things, colors: (144, 4), of the four corners.
    thumbnail: (144, 48), from -1 to 1.
    """
    side = SIDE * THUMBNAIL
    step = len(targets.image) // side
    small = targets.image.reshape(side, step, side, step, 3).mean((1, 3))
    small = small.reshape(SIDE, THUMBNAIL, SIDE, THUMBNAIL, 3).transpose(0, 2, 1, 3, 4)
    characters = _halves(targets.characters)
    first = np.argsort(characters == 0, axis=-1, kind="stable")[:, :LONGEST]
    written = {
        "characters": characters,
        "heights": _halves(targets.heights),
        "before": _halves(targets.before),
    }
    return {
        name: np.take_along_axis(grid, first, -1).reshape(CELLS, SLOTS)
        for name, grid in written.items()
    } | {
        "things": slots(targets.things, 2, 2).reshape(CELLS, 4),
        "colors": slots(targets.colors, 2, 2).reshape(CELLS, 4),
        "thumbnail": (small.reshape(CELLS, -1) / 127.5 - 1).astype(np.float32),
    }


def _halves(grid: np.ndarray) -> np.ndarray:
    """(rows of 8 pixels, columns of 4) to (cells * halves, 16), column by column."""
    halves = slots(grid, 4, 8).reshape(CELLS, LINES, 2, 8)
    return halves.transpose(0, 1, 3, 2).reshape(CELLS * LINES, 16)


class CellCode(nn.Module):
    """What stands in the cells (images, 144) as vectors (images, 144, width).

    A character is the language model's own token for it, turned by a matrix of the slot it stands
    in: so what the model can do with text, it can nearly do with cells.

    Args:
        tokens: (characters, width), the language model's embeddings of `CHARACTERS`.
    """

    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        width = tokens.shape[1]
        self.scale = nn.Parameter(tokens.std())
        tokens = tokens / tokens.std()
        self.character = nn.Parameter(torch.cat([torch.zeros(1, width), tokens]))
        self.turn = nn.Parameter(0.7 * _rotations(width) + 0.5 * torch.eye(width))
        # What stands before it lets the model find the next character by the last one it wrote.
        self.before = nn.Parameter(torch.cat([torch.randn(1, width), tokens]))
        self.turn_before = nn.Parameter(0.7 * _rotations(width))
        self.height = nn.Embedding(HEIGHT_STEPS + 1, width)
        self.thing = nn.Embedding(len(THING_IDS) + 1, width, padding_idx=0)
        self.color = nn.Embedding(len(COLOR_IDS) + 1, width, padding_idx=0)
        self.corner = nn.Parameter(0.5 * torch.randn(4, width))
        self.thumbnail = nn.Linear(3 * THUMBNAIL**2, width)
        self.place = nn.Parameter(0.5 * torch.randn(CELLS, width))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        shown = self.thing(batch["things"]) + self.color(batch["colors"])
        cells = (shown * self.corner).sum(2) + self.thumbnail(batch["thumbnail"]) + self.place
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


def _rotations(width: int) -> Tensor:
    return torch.linalg.qr(torch.randn(SLOTS, width, width))[0].contiguous()


def load_code(folder: Path) -> CellCode:
    """The code that was learnt with the language model of `folder`."""
    state = load_file(folder / CODE_FILE)
    code = CellCode(torch.randn_like(state["character"][1:]))
    code.load_state_dict(state)
    return code.eval().requires_grad_(False)

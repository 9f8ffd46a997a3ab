"""The code in which the nano language model reads a page: a vector for each cell of 32 pixels."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from playground.pretraining.targets import (
    CHARACTERS,
    COLOR_IDS,
    HEIGHT_STEPS,
    THING_IDS,
    DenseTargets,
    slots,
)

CODE_FILE = "cell_code.safetensors"
CELLS = 64
SLOTS = 32  # of a cell: 4 rows of 8 pixels, 8 columns of 4
THUMBNAIL = 4  # pixels a side that a cell's 32 are averaged to


def cell_targets(targets: DenseTargets) -> dict[str, np.ndarray]:
    """What stands in each of the 64 cells, in the form that `CellCode` takes."""
    side = 8 * THUMBNAIL
    small = targets.image.reshape(side, 256 // side, side, 256 // side, 3).mean((1, 3))
    small = small.reshape(8, THUMBNAIL, 8, THUMBNAIL, 3).transpose(0, 2, 1, 3, 4)
    return {
        "characters": slots(targets.characters, 4, 8).reshape(CELLS, SLOTS),
        "heights": slots(targets.heights, 4, 8).reshape(CELLS, SLOTS),
        "following": slots(targets.following, 4, 8).reshape(CELLS, SLOTS),
        "things": slots(targets.things, 2, 2).reshape(CELLS, 4),
        "colors": slots(targets.colors, 2, 2).reshape(CELLS, 4),
        "thumbnail": (small.reshape(CELLS, -1) / 127.5 - 1).astype(np.float32),
    }


class CellCode(nn.Module):
    """What stands in the cells (images, 64) as vectors (images, 64, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.character = nn.Embedding(len(CHARACTERS) + 1, width, padding_idx=0)
        self.bag = nn.Embedding(len(CHARACTERS) + 1, width, padding_idx=0)
        self.key = nn.Embedding(len(CHARACTERS) + 1, width)
        self.following = nn.Embedding(len(CHARACTERS) + 1, width)
        self.height = nn.Embedding(HEIGHT_STEPS + 1, width, padding_idx=0)
        self.thing = nn.Embedding(len(THING_IDS) + 1, width, padding_idx=0)
        self.color = nn.Embedding(len(COLOR_IDS) + 1, width, padding_idx=0)
        # Each corner has a vector of its own that multiplies what stands there.
        self.slot = nn.Parameter(torch.randn(SLOTS, width))
        self.corner = nn.Parameter(torch.randn(4, width))
        self.thumbnail = nn.Linear(3 * THUMBNAIL**2, width)
        self.place = nn.Parameter(0.5 * torch.randn(CELLS, width))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        shown = self.thing(batch["things"]) + self.color(batch["colors"])
        cells = (shown * self.corner).sum(2) + self.thumbnail(batch["thumbnail"]) + self.place
        # Most slots are empty: only the others are looked up.
        image, cell, slot = batch["characters"].nonzero(as_tuple=True)
        identity = batch["characters"][image, cell, slot]
        heights = self.height(batch["heights"][image, cell, slot])
        standing = (self.character(identity) + heights) * self.slot[slot]
        # Also what needs no place: that a character is there, and what follows it.
        following = self.following(batch["following"][image, cell, slot])
        standing = standing + self.bag(identity) + self.key(identity) * following
        cells = cells.flatten(0, 1).index_add(0, image * CELLS + cell, standing)
        return self.out(self.norm(cells)).unflatten(0, (-1, CELLS))


def load_code(folder: Path) -> CellCode:
    """The code that was learnt with the language model of `folder`."""
    state = load_file(folder / CODE_FILE)
    code = CellCode(state["place"].shape[-1])
    code.load_state_dict(state)
    return code.eval().requires_grad_(False)

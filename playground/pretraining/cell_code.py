"""The code in which the nano language model reads a page: a vector for each cell of 32 pixels."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from mgm.errors import MGMError
from playground.colors import COLORS
from playground.pretraining.targets import (
    CELL,
    CHARACTERS,
    HEIGHT_STEPS,
    SIDE,
    THINGS,
    DenseTargets,
    cell_characters,
    quarters,
)

CODE_FILE = "cell_code.safetensors"
CELLS = SIDE * SIDE
SLOTS = 6  # characters of a cell
THUMBNAIL = 4  # pixels a side that a cell's 32 are averaged to


def cell_targets(targets: DenseTargets) -> dict[str, np.ndarray]:
    """What stands in each of the 144 cells, in the form that `CellCode` takes.

    characters, heights, before: (144, 6), those of `cell_characters`.
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
    cells |= {name: quarters(getattr(targets, name)) for name in ("things", "colors")}
    cells["middle_thing"], cells["middle_color"] = targets.middles.reshape(CELLS, 2).T
    cells["words"] = _words(targets)
    return cells | cell_characters(targets, CELL, SLOTS)


def _words(targets: DenseTargets) -> np.ndarray:
    letters = np.zeros((targets.words.max(initial=0) + 1, len(CHARACTERS) + 1), np.float32)
    np.add.at(letters, (targets.words, targets.characters), 1)
    reaches = np.zeros((CELLS, len(letters)), np.float32)
    reaches[targets.cells(CELL), targets.words] = 1
    counts = reaches @ letters
    return counts / np.sqrt(counts.sum(1, keepdims=True)).clip(1)


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
    """The code that was learned with the language model of `folder`.

    Raises:
        MGMError: it is the code of cells with other contents.
    """
    file = folder / CODE_FILE
    state = load_file(file)
    width = state["character"].shape[1]
    code = CellCode(*(torch.randn(len(table), width) for table in (CHARACTERS, THINGS, COLORS)))
    try:
        code.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise MGMError(
            f"{file}: its cells hold other characters, heights or things than those drawn now "
            f"({reason}); train it again with playground.pretraining.language_model "
            "--train-cell-code"
        ) from error
    return code.eval().requires_grad_(False)

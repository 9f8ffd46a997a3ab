"""Cell code: embeds the true content of each 32-pixel cell as an input of the language model."""

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
SLOTS = 6  # maximum characters of a cell
THUMBNAIL = 4  # pixels per side of a cell's thumbnail


def cell_targets(targets: DenseTargets) -> dict[str, np.ndarray]:
    """Content of each of the 144 cells, as arrays for `CellCode`.

    characters, heights, before: (144, 6), see `cell_characters`.
    things, colors: (144, 4), ids at the four corners.
    middle_thing, middle_color: (144,), ids of the object whose centre is in the cell.
    thumbnail: (144, 48), from -1 to 1.
    words: (144, 95), count of each character in the words that overlap the cell, divided by the
        square root of their total length.
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
    """Embedding of the content of cells: (images, 144) to vectors (images, 144, width).

    Characters, objects and colours are embedded by the language model's own token embeddings,
    multiplied by a matrix per role (near a scaled rotation), so that skills learned on text
    transfer to cells.

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
        self.turn = nn.Parameter(_role_matrices(SLOTS, width))
        # The preceding character lets attention find the next character from the last output.
        self.before = nn.Parameter(torch.cat([torch.randn(1, width), tokens[0]]))
        self.turn_before = nn.Parameter(_role_matrices(SLOTS, width, identity_weight=0.0))
        # A bag of the letters of whole words, so that one dot product can match a word.
        self.turn_word = nn.Parameter(_role_matrices(1, width)[0])
        self.height = nn.Embedding(HEIGHT_STEPS + 1, width)
        # One matrix for the object with its centre in the cell, one for those at the corners.
        self.turn_thing = nn.Parameter(_role_matrices(2, width))
        self.turn_color = nn.Parameter(_role_matrices(2, width))
        self.thumbnail = nn.Linear(3 * THUMBNAIL**2, width)
        # Separate embeddings of rows and columns: one dot product tests for the same row.
        self.row = nn.Parameter(1.5 * torch.randn(SIDE, 1, width))
        self.column = nn.Parameter(1.5 * torch.randn(1, SIDE, width))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Embed a batch of `cell_targets`, stacked over images, as (images, 144, width)."""
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
        # Most slots are empty: embed only the others.
        for slot in range(SLOTS):
            cell = characters[:, slot].nonzero().squeeze(1)
            embedded = self.character[characters[cell, slot]] @ self.turn[slot]
            embedded = embedded + self.before[before[cell, slot]] @ self.turn_before[slot]
            embedded = embedded + 0.3 * self.height(heights[cell, slot])
            flat = flat.index_add(0, cell, embedded)
        return (self.scale * flat).unflatten(0, cells.shape[:2])


def _role_matrices(count: int, width: int, identity_weight: float = 0.5) -> Tensor:
    rotations = torch.linalg.qr(torch.randn(count, width, width))[0]
    return (0.7 * rotations + identity_weight * torch.eye(width)).contiguous()


def load_code(folder: Path) -> CellCode:
    """Load the cell code that was trained with the language model of `folder`.

    Raises:
        MGMError: its vocabularies of cell contents differ from the current ones.
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
            f"{file}: its vocabulary of characters, heights or objects differs from that of the "
            f"current scenes ({reason}); train it again with "
            "playground.pretraining.language_model --train-cell-code"
        ) from error
    return code.eval().requires_grad_(False)

"""What teaches an encoder: linear heads for characters, things and the cell code, and captions."""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgm.data.image_processing_mgm import CLIP_MEAN, CLIP_STD
from mgm.engine.device import cpu_has_bfloat16
from playground.pretraining.cell_code import SLOTS, CellCode
from playground.pretraining.drawn_images import CAPTION_TOKENS, FINE_SIDE, FINE_SLOTS
from playground.pretraining.encoder_networks import Encoder
from playground.pretraining.encoder_sets import TEXT_WIDTH
from playground.pretraining.targets import (
    CHARACTERS,
    COLOR_IDS,
    SIDE,
    THING_IDS,
)

CLASSES = len(CHARACTERS) + 1
THINGS, COLORS = len(THING_IDS) + 1, len(COLOR_IDS) + 1
GRIDS = {FINE_SIDE: ("fine", FINE_SLOTS), SIDE: ("cell", SLOTS)}  # name in batches, characters
NOTHING_WEIGHT = 0.2  # most slots hold nothing
EMPTY_CELLS = 0.1  # share of the cells without any character that are looked at
CODE_WEIGHT, CAPTION_WEIGHT = 4.0, 0.25  # of losses
# Height steps whose accuracy is shown: capitals up to 7.1, 9.9 and 13.9 pixels of 384, and above.
SHOWN_STEPS = (1, 2, 3, 4)


class CaptionEncoder(nn.Module):
    """Caption ids (batch, tokens) to unit vectors (batch, width)."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.position = nn.Parameter(0.02 * torch.randn(CAPTION_TOKENS, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, 0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, ids: Tensor) -> Tensor:
        """(batch, tokens) ids, 0 for padding -> (batch, width), of length 1."""
        padding = ids == 0
        hidden = self.layers(self.embedding(ids) + self.position, src_key_padding_mask=padding)
        weights = (~padding).unsqueeze(-1).to(hidden.dtype)
        return F.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)


class CharacterHead(nn.Linear):
    """Linear head for the characters in each cell of a grid.

    Args:
        width: channels of the grid.
        slots: characters of a cell.
    """

    class_weights: Tensor

    def __init__(self, width: int, slots: int) -> None:
        super().__init__(width, slots * CLASSES)
        self.register_buffer("class_weights", torch.ones(CLASSES), persistent=False)
        self.class_weights[0] = NOTHING_WEIGHT

    def logits(self, features: Tensor) -> Tensor:
        """Features (..., width) -> logits (..., slots, classes)."""
        return self(features).unflatten(-1, (-1, CLASSES)).float()

    def loss(self, features: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and for each character of `target` in order whether it was recognised.

        Args:
            features: (cells, width).
            target: ids (cells, slots), 0 in empty slots.
        """
        logits = self.logits(features)
        loss = F.cross_entropy(logits.flatten(0, -2), target.flatten(), self.class_weights)
        there = target > 0
        return loss, logits.argmax(-1)[there] == target[there]


def choose_cells(target: Tensor) -> Tensor:
    """Cells (...) of ids (..., slots) to look at: with characters, and a few of the others."""
    occupied = target.any(-1)
    return occupied | (torch.rand(occupied.shape) < EMPTY_CELLS)


class GridHeads(nn.Module):
    """Linear heads on a grid: the characters in each cell, and things and colours of its corners.

    Args:
        width: channels of the grid.
        side: cells per side.
        slots: characters of a cell.
    """

    def __init__(self, width: int, side: int, slots: int) -> None:
        super().__init__()
        self.corners = FINE_SIDE // side  # per side of a cell
        self.characters = CharacterHead(width, slots)
        self.things = nn.Linear(width, self.corners**2 * (THINGS + COLORS))

    def character_loss(self, grid: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and for each character of `target` in order whether it was recognised.

        Args:
            grid: (images, side, side, width).
            target: ids (images, side, side, slots), 0 in empty slots.
        """
        looked_at = choose_cells(target)
        return self.characters.loss(grid[looked_at], target[looked_at])

    def thing_loss(self, grid: Tensor, things: Tensor, colors: Tensor) -> Tensor:
        """The mean loss of things and colours (images, 24, 24)."""
        logits = self.things(grid).float()
        images, side = grid.shape[:2]
        corners = logits.view(images, side, side, self.corners, self.corners, -1)
        by_pixel = corners.transpose(2, 3).flatten(0, -2)
        return 0.5 * (
            F.cross_entropy(by_pixel[:, :THINGS], things.flatten())
            + F.cross_entropy(by_pixel[:, THINGS:], colors.flatten())
        )


class EncoderPretraining(nn.Module):
    """One encoder with the heads and losses that teach it; no other encoder has a part in it.

    Args:
        vocabulary: tokens of the captions' tokenizer.
        code: the language model's code of cells, which a linear head learns to produce; None: that
            is not learned.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: Encoder, vocabulary: int, code: CellCode | None) -> None:
        super().__init__()
        self.encoder, self.code = encoder, code
        self.heads = nn.ModuleDict(
            {
                GRIDS[side][0]: GridHeads(width, side, GRIDS[side][1])
                for side, width in encoder.widths.items()
            }
        )
        width = encoder.widths[SIDE]
        self.code_head = None if code is None else nn.Linear(width, code.row.shape[-1])
        self.caption_head = nn.Linear(width, TEXT_WIDTH)
        self.caption_encoder = CaptionEncoder(vocabulary, TEXT_WIDTH)
        self.temperature = nn.Parameter(torch.tensor(math.log(10.0)))
        self.register_buffer("mean", torch.tensor(CLIP_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(CLIP_STD).view(3, 1, 1), persistent=False)

    @torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bfloat16())
    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The summed loss, and the figures to show: losses and shares of characters recognised."""
        images = batch["image"].permute(0, 3, 1, 2).float().div(255).sub(self.mean).div(self.std)
        features = self.encoder(images)
        losses, figures = [], {}
        for side, grid in features.grids.items():
            name, slots = GRIDS[side]
            heads = cast("GridHeads", self.heads[name])
            target = batch[f"{name}_characters"].view(-1, side, side, slots)
            loss, is_right = heads.character_loss(grid, target)
            losses += [loss, heads.thing_loss(grid, batch["things"], batch["colors"])]
            figures[f"{name}_things"] = losses[-1]
            figures |= _accuracy(f"{name}_characters", is_right, torch.ones_like(is_right))
            if side == SIDE:
                figures |= _accuracy_by_height(is_right, batch)
        if self.code is not None and self.code_head is not None:
            seen = self.code_head(features.grids[SIDE].flatten(1, 2)).float()
            figures["code"] = _code_loss(self.code, seen, batch)
            losses.append(CODE_WEIGHT * figures["code"])
        captioned = batch["caption"].ne(0).any(1)
        if captioned.sum() > 1:
            text = self.caption_encoder(batch["caption"][captioned])
            vectors = self.caption_head(features.summary[captioned])
            figures["captions"] = self._contrast(vectors, text)
            losses.append(CAPTION_WEIGHT * figures["captions"])
        return torch.stack(losses).sum(), {n: figure.detach() for n, figure in figures.items()}

    def _contrast(self, images: Tensor, texts: Tensor) -> Tensor:
        logits = (F.normalize(images, dim=-1) @ texts.T).float() * self.temperature.exp().clamp(
            max=100
        )
        target = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def _code_loss(code: CellCode, seen: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """The share of the code's variance that is missed by what was `seen`, (images, 144, width)."""
    target = code({name[5:]: batch[name] for name in batch if name.startswith("cell_")})
    return (seen - target).square().mean() / (target - target.mean((0, 1))).square().mean()


def _accuracy_by_height(is_right: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Shares of the characters recognised, by height step; the last one is "or more"."""
    steps = batch["cell_heights"][batch["cell_characters"] > 0].clamp(max=SHOWN_STEPS[-1])
    figures: dict[str, Tensor] = {}
    for step in SHOWN_STEPS:
        figures |= _accuracy(f"height_{step}", is_right, steps == step)
    return figures


def _accuracy(name: str, is_right: Tensor, selected: Tensor) -> dict[str, Tensor]:
    """The share that is right of those selected; nothing where none is."""
    return {name: is_right[selected].float().mean()} if selected.any() else {}

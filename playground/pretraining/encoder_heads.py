"""Heads and losses of encoder pre-training: characters, objects, cell code and captions."""

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
EMPTY_CLASS_WEIGHT = 0.2  # class weight of empty slots, which are the majority
EMPTY_CELL_RATIO = 0.1  # share of cells without characters that the loss includes
CODE_WEIGHT, CAPTION_WEIGHT = 4.0, 0.25  # weights of losses
# Height steps with logged accuracy: capitals up to 7.1, 9.9 and 13.9 pixels of 384, and above.
LOGGED_STEPS = (1, 2, 3, 4)


class CaptionEncoder(nn.Module):
    """Transformer encoder of captions: ids (batch, tokens) to unit vectors (batch, width)."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.position = nn.Parameter(0.02 * torch.randn(CAPTION_TOKENS, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, 0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Encode ids (batch, tokens), 0 for padding, as unit vectors (batch, width)."""
        padding = ids == 0
        hidden = self.layers(self.embedding(ids) + self.position, src_key_padding_mask=padding)
        weights = (~padding).unsqueeze(-1).to(hidden.dtype)
        return F.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)


class CharacterHead(nn.Linear):
    """Linear head for the characters in each cell of a grid.

    Args:
        width: channels of the grid.
        slots: maximum characters of a cell.
    """

    class_weights: Tensor

    def __init__(self, width: int, slots: int) -> None:
        super().__init__(width, slots * CLASSES)
        self.register_buffer("class_weights", torch.ones(CLASSES), persistent=False)
        self.class_weights[0] = EMPTY_CLASS_WEIGHT

    def logits(self, features: Tensor) -> Tensor:
        """Compute logits (..., slots, classes) of features (..., width)."""
        return self(features).unflatten(-1, (-1, CLASSES)).float()

    def loss(self, features: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the loss, and for each character of `target` in order whether it is recognised.

        Args:
            features: (cells, width).
            target: ids (cells, slots), 0 in empty slots.
        """
        logits = self.logits(features)
        loss = F.cross_entropy(logits.flatten(0, -2), target.flatten(), self.class_weights)
        there = target > 0
        return loss, logits.argmax(-1)[there] == target[there]


def choose_cells(target: Tensor) -> Tensor:
    """Sample the mask (...) of cells for the loss: those with characters and a few others."""
    occupied = target.any(-1)
    return occupied | (torch.rand(occupied.shape) < EMPTY_CELL_RATIO)


class GridHeads(nn.Module):
    """Linear heads on a grid: characters of each cell, and objects and colours at its corners.

    Args:
        width: channels of the grid.
        side: cells per side.
        slots: maximum characters of a cell.
    """

    def __init__(self, width: int, side: int, slots: int) -> None:
        super().__init__()
        self.corners = FINE_SIDE // side  # per side of a cell
        self.characters = CharacterHead(width, slots)
        self.things = nn.Linear(width, self.corners**2 * (THINGS + COLORS))

    def character_loss(self, grid: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the loss, and for each character of `target` in order whether it is recognised.

        Args:
            grid: (images, side, side, width).
            target: ids (images, side, side, slots), 0 in empty slots.
        """
        selected = choose_cells(target)
        return self.characters.loss(grid[selected], target[selected])

    def thing_loss(self, grid: Tensor, things: Tensor, colors: Tensor) -> Tensor:
        """Compute the mean loss of objects and colours (images, 24, 24)."""
        logits = self.things(grid).float()
        images, side = grid.shape[:2]
        corners = logits.view(images, side, side, self.corners, self.corners, -1)
        by_pixel = corners.transpose(2, 3).flatten(0, -2)
        return 0.5 * (
            F.cross_entropy(by_pixel[:, :THINGS], things.flatten())
            + F.cross_entropy(by_pixel[:, THINGS:], colors.flatten())
        )


class EncoderPretraining(nn.Module):
    """One encoder with the heads and losses of its pre-training.

    Args:
        encoder: encoder to train.
        vocabulary: size of the captions' vocabulary.
        code: the language model's cell code, regression target of a linear head; None: no such
            head.
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
        """Compute the summed loss, and the metrics to log: losses and character accuracies."""
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
            predicted = self.code_head(features.grids[SIDE].flatten(1, 2)).float()
            figures["code"] = _code_loss(self.code, predicted, batch)
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


def _code_loss(code: CellCode, predicted: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Unexplained share of the code's variance; `predicted` is (images, 144, width)."""
    target = code({name[5:]: batch[name] for name in batch if name.startswith("cell_")})
    variance = (target - target.mean((0, 1))).square().mean()
    return (predicted - target).square().mean() / variance


def _accuracy_by_height(is_right: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Character accuracy by height step; the last one includes all above."""
    steps = batch["cell_heights"][batch["cell_characters"] > 0].clamp(max=LOGGED_STEPS[-1])
    figures: dict[str, Tensor] = {}
    for step in LOGGED_STEPS:
        figures |= _accuracy(f"height_{step}", is_right, steps == step)
    return figures


def _accuracy(name: str, is_right: Tensor, selected: Tensor) -> dict[str, Tensor]:
    """Accuracy on the selected characters by its name; empty if none is selected."""
    return {name: is_right[selected].float().mean()} if selected.any() else {}

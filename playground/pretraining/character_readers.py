"""ConvNeXts that learn which character is where, in sharp and in blurred images; see probe.py."""

import shutil
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from mgm.atomic import atomic_folder
from mgm.data.image_processing_mgm import CLIP_MEAN, CLIP_STD
from mgm.engine.device import cpu_has_bfloat16
from mgm.model.vision.convnext import ConvNextTower, load_convnext_tower
from mgm.model.vision.convnext_config import ConvNextTowerConfig
from mgm.model.vision.image_views import blurred
from playground.pretraining.encoder_heads import CharacterHead, choose_cells
from playground.pretraining.loop import batches_after, optimizers, seeds_of_worker, train
from playground.pretraining.targets import dense_targets
from playground.sample import Sample
from playground.scenes import draw_page, draw_sample

WEIGHTS_FILE = "readers.safetensors"
BLUR = 168  # pixels per side of the ViT's view
DEPTHS, DIMS = (1, 2, 2), (24, 48, 128)  # of the first three stages of the nano model's ConvNeXt
SIDE = 24  # cells per side of the third map
CELL, PART = 16, 16  # pixels per side of a cell of the third map; cells per side of training parts
ROWS, COLUMNS = 2, 4  # character positions of a cell of the third map: 8 x 4 pixels each
LEARNING_RATE, OTHERS_RATE = 2e-3, 1e-3  # of matrices; of all else
DECAY_RATIO = 0.5  # share of the steps with learning-rate decay
PAGE_RATIO = 0.4  # share of dense text pages
KINDS = ("sign", "receipt", "table", "bar_chart", "line_chart", "comparison")  # with text


def views(image: Tensor) -> dict[str, Tensor]:
    """An image (384, 384, 3) in uint8 as both readers see it: normalised (3, 384, 384)."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    pixels = image.permute(2, 0, 1).float().div(255).sub(mean).div(std)
    return {"sharp": pixels, "blurred": blurred(pixels[None], BLUR)[0]}


def character_grids(sample: Sample, index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Image `index` of a sample with its characters; of those that share a position, the last.

    Returns:
        The image, (384, 384, 3) in uint8; ids of the characters, (24, 24, 8), 0 for none; their cap
        heights in units, (24, 24, 8).
    """
    targets = dense_targets(sample, index)
    rows, columns = (targets.y // 8).astype(int), (targets.x // 4).astype(int)
    cells = rows // ROWS, columns // COLUMNS, rows % ROWS * COLUMNS + columns % COLUMNS
    ids = np.zeros((SIDE, SIDE, ROWS * COLUMNS), np.int64)
    caps = np.zeros(ids.shape)
    ids[cells], caps[cells] = targets.characters, targets.caps
    return torch.tensor(targets.image), torch.tensor(ids), torch.tensor(caps)


class CharacterImages(IterableDataset[dict[str, Tensor]]):
    """An endless stream of parts of drawn images, and the character at each position.

    Args:
        seed: of the first image.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return map(self.draw, seeds_of_worker(self.seed))

    def draw(self, seed: int) -> dict[str, Tensor]:
        """sharp, blurred: (3, 256, 256), normalised; characters: ids (16, 16, 8), 0 for none.

        A part is cut out around a random character, after the whole image was blurred.
        """
        generator = np.random.default_rng(seed)
        if generator.random() < PAGE_RATIO:
            sample = draw_page(seed)
        else:
            sample = draw_sample(seed, "train", KINDS[generator.integers(len(KINDS))])
        image, ids, _ = character_grids(sample, int(generator.integers(len(sample.images))))
        occupied = ids.any(-1).nonzero().tolist() or [[0, 0]]
        shifts = generator.integers(PART, size=2)
        row, column = (
            int(min(max(cell - shift, 0), len(ids) - PART))
            for cell, shift in zip(generator.choice(occupied), shifts, strict=True)
        )
        top, left, side = row * CELL, column * CELL, PART * CELL
        part = {
            name: pixels[:, top : top + side, left : left + side].clone()
            for name, pixels in views(image).items()
        }
        return {**part, "characters": ids[row : row + PART, column : column + PART].clone()}


class CharacterReader(nn.Module):
    """The first three stages of a nano ConvNeXt with a linear head for characters."""

    def __init__(self) -> None:
        super().__init__()
        config = ConvNextTowerConfig([*DEPTHS, 1], [*DIMS, 2 * DIMS[-1]], ls_init_value=0.5)
        self.tower = ConvNextTower(config).to(memory_format=torch.channels_last)
        self.tower.stages = self.tower.stages[: len(DIMS)]
        self.head = CharacterHead(DIMS[-1], ROWS * COLUMNS)

    def features(self, pixels: Tensor) -> Tensor:
        """Normalised images (images, 3, H, W) -> features (images, H / 16, W / 16, channels)."""
        maps = self.tower(pixels.contiguous(memory_format=torch.channels_last))
        return maps[-1].permute(0, 2, 3, 1)

    def forward(self, pixels: Tensor, ids: Tensor, looked_at: Tensor) -> tuple[Tensor, Tensor]:
        """The loss in the cells `looked_at`, and the share of characters recognised."""
        loss, is_right = self.head.loss(self.features(pixels)[looked_at], ids[looked_at])
        return loss, is_right.float().mean().nan_to_num()


class CharacterReaders(nn.Module):
    """A reader for sharp images and one for blurred images."""

    def __init__(self) -> None:
        super().__init__()
        self.sharp, self.blurred = CharacterReader(), CharacterReader()

    def by_view(self) -> dict[str, CharacterReader]:
        """Both readers, by the name of what they see."""
        return {"sharp": self.sharp, "blurred": self.blurred}


def build_readers(init_from: Path | None = None) -> CharacterReaders:
    """Both readers, with the same weights.

    Args:
        init_from: folder of a nano ConvNeXt; None: random weights.
    """
    readers = CharacterReaders()
    if init_from is not None:
        state = load_convnext_tower(init_from).state_dict()
        kept = readers.sharp.tower.state_dict()
        readers.sharp.tower.load_state_dict({name: state[name] for name in kept})
    readers.blurred.load_state_dict(readers.sharp.state_dict())
    return readers


def teach(readers: CharacterReaders, out: Path, arguments: Namespace) -> None:
    """Train both on the same images and write their weights to the folder `out`."""
    if shutil.which("g++"):
        for reader in readers.by_view().values():
            reader.tower.compile()
    towers = [readers.sharp.tower, readers.blurred.tower]
    by = optimizers(towers, [readers], LEARNING_RATE, OTHERS_RATE)

    @torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bfloat16())
    def losses_of(batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        ids = batch["characters"]
        looked_at = choose_cells(ids)
        results = {
            name: reader(batch[name], ids, looked_at) for name, reader in readers.by_view().items()
        }
        figures = {name: accuracy for name, (_, accuracy) in results.items()}
        return torch.stack([loss for loss, _ in results.values()]).sum(), figures

    def losses(done: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        size, workers = arguments.batch_size, arguments.workers
        return map(losses_of, batches_after(done, CharacterImages, arguments.seed, size, workers))

    def save(folder: Path) -> None:
        with atomic_folder(folder) as part:
            state = {name: tensor.contiguous() for name, tensor in readers.state_dict().items()}
            save_file(state, part / WEIGHTS_FILE)

    out.parent.mkdir(parents=True, exist_ok=True)
    train(readers, losses, by, arguments.steps, out, save, DECAY_RATIO)

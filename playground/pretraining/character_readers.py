"""ConvNeXts with linear heads for characters, on sharp and on blurred images; see probe.py."""

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
BLUR = 168  # pixels per side of the ViT's input
DEPTHS, DIMS = (1, 2, 2), (24, 48, 128)  # first three stages of the nano model's ConvNeXt
SIDE = 24  # cells per side of the feature map of stage 3
CELL, CROP = 16, 16  # pixels per side of such a cell; cells per side of a training crop
ROWS, COLUMNS = 2, 4  # character positions per cell: 8 x 4 pixels each
LEARNING_RATE, OTHERS_RATE = 2e-3, 1e-3  # of Muon for matrices; of AdamW for other parameters
DECAY_RATIO = 0.5  # share of the steps with learning-rate decay
PAGE_RATIO = 0.4  # share of dense text pages
KINDS = ("sign", "receipt", "table", "bar_chart", "line_chart", "comparison")  # with text


def views(image: Tensor) -> dict[str, Tensor]:
    """Inputs of both readers for an image (384, 384, 3) in uint8: normalised (3, 384, 384)."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    pixels = image.permute(2, 0, 1).float().div(255).sub(mean).div(std)
    return {"sharp": pixels, "blurred": blurred(pixels[None], BLUR)[0]}


def character_grids(sample: Sample, index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Image `index` of a sample with its characters; if several share a position, the last.

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
    """An endless stream of crops of drawn images with the character at each position.

    Args:
        seed: seed of the first image.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return map(self.draw, seeds_of_worker(self.seed))

    def draw(self, seed: int) -> dict[str, Tensor]:
        """Draw the image of a seed, and crop it around a random character, after blurring.

        sharp, blurred: (3, 256, 256), normalised; characters: ids (16, 16, 8), 0 for none.
        """
        generator = np.random.default_rng(seed)
        if generator.random() < PAGE_RATIO:
            sample = draw_page(seed)
        else:
            sample = draw_sample(seed, "train", KINDS[generator.integers(len(KINDS))])
        image, ids, _ = character_grids(sample, int(generator.integers(len(sample.images))))
        occupied = ids.any(-1).nonzero().tolist() or [[0, 0]]
        shifts = generator.integers(CROP, size=2)
        row, column = (
            int(min(max(cell - shift, 0), len(ids) - CROP))
            for cell, shift in zip(generator.choice(occupied), shifts, strict=True)
        )
        top, left, side = row * CELL, column * CELL, CROP * CELL
        crop = {
            name: pixels[:, top : top + side, left : left + side].clone()
            for name, pixels in views(image).items()
        }
        return {**crop, "characters": ids[row : row + CROP, column : column + CROP].clone()}


class CharacterReader(nn.Module):
    """The first three stages of a nano ConvNeXt with a linear head for characters."""

    def __init__(self) -> None:
        super().__init__()
        config = ConvNextTowerConfig([*DEPTHS, 1], [*DIMS, 2 * DIMS[-1]], ls_init_value=0.5)
        self.tower = ConvNextTower(config).to(memory_format=torch.channels_last)
        self.tower.stages = self.tower.stages[: len(DIMS)]
        self.head = CharacterHead(DIMS[-1], ROWS * COLUMNS)

    def features(self, pixels: Tensor) -> Tensor:
        """Encode normalised images (images, 3, H, W) as (images, H / 16, W / 16, channels)."""
        maps = self.tower(pixels.contiguous(memory_format=torch.channels_last))
        return maps[-1].permute(0, 2, 3, 1)

    def forward(self, pixels: Tensor, ids: Tensor, selected: Tensor) -> tuple[Tensor, Tensor]:
        """Loss in the cells of the mask `selected`, and character accuracy."""
        loss, is_right = self.head.loss(self.features(pixels)[selected], ids[selected])
        return loss, is_right.float().mean().nan_to_num()


class CharacterReaders(nn.Module):
    """A reader for sharp images and one for blurred images."""

    def __init__(self) -> None:
        super().__init__()
        self.sharp, self.blurred = CharacterReader(), CharacterReader()

    def by_view(self) -> dict[str, CharacterReader]:
        """Both readers by the name of their input."""
        return {"sharp": self.sharp, "blurred": self.blurred}


def build_readers(init_from: Path | None = None) -> CharacterReaders:
    """Build both readers with the same weights.

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


def train_readers(readers: CharacterReaders, out: Path, arguments: Namespace) -> None:
    """Train both readers on the same images, and write their weights to the folder `out`."""
    if shutil.which("g++"):
        for reader in readers.by_view().values():
            reader.tower.compile()
    towers = [readers.sharp.tower, readers.blurred.tower]
    optimizer_list = optimizers(towers, [readers], LEARNING_RATE, OTHERS_RATE)

    @torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bfloat16())
    def compute_losses(batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        ids = batch["characters"]
        selected = choose_cells(ids)
        results = {
            name: reader(batch[name], ids, selected) for name, reader in readers.by_view().items()
        }
        figures = {name: accuracy for name, (_, accuracy) in results.items()}
        return torch.stack([loss for loss, _ in results.values()]).sum(), figures

    def losses(done: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        size, workers = arguments.batch_size, arguments.workers
        batches = batches_after(done, CharacterImages, arguments.seed, size, workers)
        return map(compute_losses, batches)

    def save(folder: Path) -> None:
        with atomic_folder(folder) as part:
            state = {name: tensor.contiguous() for name, tensor in readers.state_dict().items()}
            save_file(state, part / WEIGHTS_FILE)

    out.parent.mkdir(parents=True, exist_ok=True)
    train(readers, losses, optimizer_list, arguments.steps, out, save, DECAY_RATIO)

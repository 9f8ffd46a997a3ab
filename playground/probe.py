"""The gate of the mining experiments: what text needs more than the ViT's 168 pixels to be read?

    python -m playground.probe --weights work_dirs/character_probe --out FILE.json

Two ConvNeXts of the nano model's size learn which character is where, each by a linear head on its
map of 24 x 24. Both start from the same weights and see the same drawn images in the same order,
one with 384 pixels per side, the other after `blur_high_resolution=168`, the ViT's resolution. The
share of characters recognised in held-out images is reported by the height of the text, with 95 %
intervals clustered by image. The data suit the experiments if the blurred images cannot be read
where the sharp ones can: otherwise high resolution has nothing to give.
"""

import json
import logging
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import IterableDataset, get_worker_info
from tqdm import tqdm

from mgm.atomic import atomic_file, atomic_folder
from mgm.data.image_processing_mgm import CLIP_MEAN, CLIP_STD
from mgm.engine.device import cpu_has_bfloat16
from mgm.errors import Parser, run_command
from mgm.eval.statistics.intervals import mean_interval
from mgm.model.vision.convnext import ConvNextTower
from mgm.model.vision.convnext_config import ConvNextTowerConfig
from mgm.model.vision.image_views import blurred
from playground.arguments import count
from playground.cap_heights import FRAME as UNITS
from playground.cap_heights import HEIGHT_BINS, MIN_CAP
from playground.pretraining.loop import batches_after, optimizers, train
from playground.pretraining.targets import CHARACTERS, dense_targets, placement
from playground.sample import Sample
from playground.scenes import draw_page, draw_sample

BLUR = 168  # pixels per side of the ViT's view
DEPTHS, DIMS = (1, 2, 2), (24, 48, 128)  # of the first three stages of the nano model's ConvNeXt
SIDE = 24  # cells per side of the third map
ROWS, COLUMNS = 2, 4  # character positions of a cell of the third map: 8 x 4 pixels each
CLASSES = len(CHARACTERS) + 1
NOTHING_WEIGHT = 0.2  # most positions hold nothing
EMPTY_CELLS = 0.1  # share of the cells without any character that are looked at
LEARNING_RATE, OTHERS_RATE = 2e-3, 1e-3  # of matrices; of all else
DECAY_RATIO = 0.5  # share of the steps with learning-rate decay
PAGE_RATIO = 0.4  # share of dense text pages
HELD_OUT_SEED = 900_000_000
KINDS = ("sign", "receipt", "table", "bar_chart", "line_chart", "comparison")  # with text
FINE_BINS = tuple(pairwise((4, 5, 6, 7, 8, 10, 12)))
READABLE = 0.8  # of the characters: the lower limit of the sharp images' interval is above it
UNREADABLE = 0.5  # the upper limit of the blurred images' interval is below it
GATE_BIN = (4, 6)  # pixels of 256 in which blurred text must be unreadable and sharp text readable


class CharacterImages(IterableDataset[dict[str, Tensor]]):
    """An endless stream of drawn images and the character at each position.

    Args:
        seed: of the first image.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        worker = get_worker_info()
        number, step = (worker.id, worker.num_workers) if worker else (0, 1)
        while True:
            yield self.draw(self.seed + number)
            number += step

    def draw(self, seed: int) -> dict[str, Tensor]:
        """image: (384, 384, 3) from 0 to 255; characters: ids (24, 24, 8), 0 for none."""
        generator = np.random.default_rng(seed)
        if generator.random() < PAGE_RATIO:
            sample = draw_page(seed)
        else:
            sample = draw_sample(seed, "train", KINDS[generator.integers(len(KINDS))])
        return _tensors(sample, int(generator.integers(len(sample.images))))


def _tensors(sample: Sample, index: int) -> dict[str, Tensor]:
    targets = dense_targets(sample, index)
    rows, columns = (targets.y // 8).astype(int), (targets.x // 4).astype(int)
    characters = np.zeros((SIDE, SIDE, ROWS * COLUMNS), np.int64)
    slot = rows % ROWS * COLUMNS + columns % COLUMNS
    characters[rows // ROWS, columns // COLUMNS, slot] = targets.characters
    return {"image": torch.tensor(targets.image), "characters": torch.tensor(characters)}


class CharacterReader(nn.Module):
    """The first three stages of a nano ConvNeXt with a linear head for characters.

    Args:
        blur: pixels per side to which its images are reduced; None: they stay as they are.
    """

    def __init__(self, blur: int | None) -> None:
        super().__init__()
        self.blur = blur
        config = ConvNextTowerConfig([*DEPTHS, 1], [*DIMS, 2 * DIMS[-1]], ls_init_value=0.5)
        self.tower = ConvNextTower(config).to(memory_format=torch.channels_last)
        self.tower.stages = self.tower.stages[: len(DIMS)]
        self.head = nn.Linear(DIMS[-1], ROWS * COLUMNS * CLASSES)
        self.register_buffer("mean", torch.tensor(CLIP_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(CLIP_STD).view(3, 1, 1), persistent=False)
        self.register_buffer("class_weights", torch.ones(CLASSES), persistent=False)
        self.class_weights[0] = NOTHING_WEIGHT

    def features(self, images: Tensor) -> Tensor:
        """Images (images, 384, 384, 3) in uint8 -> features (images, 24, 24, channels)."""
        pixels = images.permute(0, 3, 1, 2).float().div(255).sub(self.mean).div(self.std)
        if self.blur is not None:
            pixels = blurred(pixels, self.blur)
        return self.tower(pixels.contiguous(memory_format=torch.channels_last))[-1].permute(
            0, 2, 3, 1
        )

    def logits(self, features: Tensor) -> Tensor:
        """Features (..., channels) -> logits (..., 8, classes) of the positions of their cells."""
        return self.head(features).unflatten(-1, (-1, CLASSES)).float()

    def forward(self, batch: dict[str, Tensor], looked_at: Tensor) -> tuple[Tensor, Tensor]:
        """The loss in the cells `looked_at` (images, 24, 24), and the share of characters right."""
        target = batch["characters"][looked_at]
        logits = self.logits(self.features(batch["image"])[looked_at])
        loss = F.cross_entropy(logits.flatten(0, -2), target.flatten(), self.class_weights)
        there = target > 0
        return loss, (logits.argmax(-1)[there] == target[there]).float().mean().nan_to_num()


def build_readers() -> nn.ModuleDict:
    """Both readers, with the same random weights."""
    readers = nn.ModuleDict({"sharp": CharacterReader(None), "blurred": CharacterReader(BLUR)})
    readers["blurred"].load_state_dict(readers["sharp"].state_dict())
    return readers


def teach(readers: nn.ModuleDict, out: Path, arguments: Namespace) -> None:
    """Train both on the same images and write their weights to the folder `out`."""
    if shutil.which("g++"):
        for reader in readers.values():
            reader.tower.compile()
    towers = [reader.tower for reader in readers.values()]
    by = optimizers(towers, [readers], LEARNING_RATE, OTHERS_RATE)

    @torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bfloat16())
    def losses_of(batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        there = batch["characters"].any(-1)
        looked_at = there | (torch.rand(there.shape) < EMPTY_CELLS)
        results = {name: reader(batch, looked_at) for name, reader in readers.items()}
        figures = {name: accuracy for name, (_, accuracy) in results.items()}
        return torch.stack([loss for loss, _ in results.values()]).sum(), figures

    def losses(done: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        size, workers = arguments.batch_size, arguments.workers
        return map(losses_of, batches_after(done, CharacterImages, arguments.seed, size, workers))

    def save(folder: Path) -> None:
        with atomic_folder(folder) as part:
            state = {name: tensor.contiguous() for name, tensor in readers.state_dict().items()}
            save_file(state, part / "readers.safetensors")

    out.parent.mkdir(parents=True, exist_ok=True)
    train(readers, losses, by, arguments.steps, out, save, DECAY_RATIO)


def held_out_sample(number: int) -> tuple[Sample, int]:
    """A held-out scene with text, and which of its images is looked at; kinds in turn."""
    sample = draw_sample(HELD_OUT_SEED + number, "held_out", KINDS[number % len(KINDS)])
    return sample, (number // len(KINDS)) % len(sample.images)


def positions(sample: Sample, index: int) -> list[tuple[int, int, int, float]]:
    """Row, column and position in the cell of each character, and its cap height in units.

    Of characters that share a position only the last one is listed, as in `_tensors`.
    """
    image = sample.images[index]
    transform = placement(image)
    caps: dict[tuple[int, int], float] = {}
    for glyph in sample.glyphs[index]:
        x, y = transform.x((glyph.x0 + glyph.x1) / 2), transform.y(glyph.level)
        caps[int(y // 8), int(x // 4)] = glyph.cap * UNITS / max(image.size)
    return [
        (row // ROWS, column // COLUMNS, row % ROWS * COLUMNS + column % COLUMNS, cap)
        for (row, column), cap in caps.items()
    ]


@torch.inference_mode()
def recognised(readers: nn.ModuleDict, images: int) -> list[dict[str, Any]]:
    """For each character of held-out images: image, cap height, and who recognised it.

    "sharp, blurred images" is the reader of sharp images, given blurred ones: a control.
    """
    control = CharacterReader(BLUR)
    control.load_state_dict(readers["sharp"].state_dict())
    every = {**readers, "sharp, blurred images": control}
    rows = []
    for number in tqdm(range(images), desc="held-out images", unit="image"):
        sample, index = held_out_sample(number)
        tensors = _tensors(sample, index)
        with torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bfloat16()):
            answers = {
                name: reader.logits(reader.features(tensors["image"][None]))[0].argmax(-1)
                for name, reader in every.items()
            }
        for row, column, slot, cap in positions(sample, index):
            truth = tensors["characters"][row, column, slot]
            right = {
                name: bool(given[row, column, slot] == truth) for name, given in answers.items()
            }
            rows.append({"image": str(number), "cap": cap, "right": right})
    return rows


def accuracies(rows: list[dict[str, Any]], low: float, high: float) -> dict[str, Any]:
    """The shares of characters recognised of those from `low` to below `high`, with intervals."""
    chosen = [row for row in rows if low <= row["cap"] < high]
    groups = [row["image"] for row in chosen]
    result: dict[str, Any] = {"characters": len(chosen), "images": len(set(groups))}
    for name in chosen[0]["right"] if chosen else ():
        values = [float(row["right"][name]) for row in chosen]
        interval = mean_interval(values, groups)
        limits = [round(interval.low, 4), round(interval.high, 4)] if interval else None
        result[name] = {"accuracy": round(float(np.mean(values)), 4), "interval": limits}
    return result


def gate_holds(bins: dict[str, dict[str, Any]]) -> bool | None:
    """Whether sharp text of the gate's heights is readable and blurred is not; None: unknown."""
    result = bins[_name(*GATE_BIN)]
    limits = [result.get(name, {}).get("interval") for name in ("sharp", "blurred")]
    if None in limits:
        return None
    return limits[0][0] > READABLE and limits[1][1] < UNREADABLE


def _name(low: float, high: float) -> str:
    return f"{low:g}-{high:g}"


def _commit() -> str:
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def main() -> None:
    """Train both readers, if they are not there, and write what they recognise."""
    parser = Parser(prog="python -m playground.probe", description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="folder of the trained readers")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--steps", type=count, default=4000)
    parser.add_argument("--batch-size", type=count, default=8)
    parser.add_argument("--images", type=count, default=1200, help="held-out images")
    parser.add_argument("--seed", type=int, default=2_000_000_000, help="of the training images")
    parser.add_argument("--workers", type=count, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(arguments.seed)
    commit = _commit()
    readers = build_readers()
    if not arguments.weights.is_dir():
        teach(readers, arguments.weights, arguments)
    readers.load_state_dict(load_file(arguments.weights / "readers.safetensors"))
    rows = recognised(readers.eval(), arguments.images)
    bins = {_name(*b): accuracies(rows, *b) for b in HEIGHT_BINS}
    result = {
        "gate_holds": gate_holds(bins),
        "rule": f"text of {_name(*GATE_BIN)} px: sharp > {READABLE}, blurred < {UNREADABLE}",
        "bins": bins,
        "fine_bins": {_name(*b): accuracies(rows, *b) for b in FINE_BINS},
        "blur": BLUR,
        "min_cap_height": MIN_CAP,
        "command": ["python", "-m", "playground.probe", *sys.argv[1:]],
        "settings": {k: v for k, v in vars(arguments).items() if isinstance(v, int)},
        "held_out_seed": HELD_OUT_SEED,
        "commit": commit,
    }
    with atomic_file(arguments.out) as part:
        part.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({name: result[name] for name in ("gate_holds", "bins")}, indent=2))


if __name__ == "__main__":
    run_command(main)

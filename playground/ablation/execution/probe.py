"""Size P: an arm's fusion and linear heads, trained on frozen encoders without a language model.

    python -m playground.ablation.execution.probe FOLDER

One head predicts the characters in the cell of each image token, another one objects and colours.
Information that linear heads cannot extract reaches a language model at most through a non-linear
function of the tokens.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from mgm.atomic import atomic_file
from mgm.data.image_processing_mgm import MGMImageProcessor
from mgm.engine.device import cpu_has_bfloat16
from mgm.errors import run_command
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from playground.ablation.execution.initial_model import unit_model, write_cost
from playground.ablation.execution.run_unit import PROBE_FILE
from playground.cap_heights import HEIGHT_BINS
from playground.pretraining.cell_code import SLOTS
from playground.pretraining.encoder_heads import THINGS, GridHeads
from playground.pretraining.loop import batches_after, train
from playground.pretraining.targets import (
    CELL,
    FRAME,
    cell_characters,
    dense_targets,
)
from playground.scenes import Split, draw_page, draw_sample

FIRST_SEED = 4_000_000_000  # of training images; not used by data sets or pre-training
SEED_STEP = 10_000_000
HELD_OUT_SEED = 5_000_000_000
HEIGHT_SCALE = 100  # heights are integers in 1/100 unit


@dataclass(frozen=True)
class ProbeSettings:
    """Training and evaluation settings of a probe.

    Attributes:
        steps: optimizer steps.
        batch_size: images per step.
        held_out: number of images for the evaluation.
        learning_rate: learning rate of AdamW, for the fusion and the heads.
        page_ratio: share of text pages among training images.
    """

    steps: int
    batch_size: int
    held_out: int
    learning_rate: float = 2e-3
    page_ratio: float = 0.4


class ProbeImages(IterableDataset[dict[str, Tensor]]):
    """An endless stream of drawn images with the characters and objects in each token's cell.

    Args:
        seed: seed of the first image.
        split: split of the scenes.
        page_ratio: share of text pages.
        processor: creates the model's high-resolution input.
        side: image tokens per side.
    """

    def __init__(
        self, seed: int, split: Split, page_ratio: float, processor: MGMImageProcessor, side: int
    ) -> None:
        self.seed, self.split, self.page_ratio = seed, split, page_ratio
        self.processor, self.side = processor, side

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        seed = self.seed
        while True:
            yield self.draw(seed)
            seed += 1

    def draw(self, seed: int) -> dict[str, Tensor]:
        """Draw the image of a seed with its targets.

        image: (3, S, S) uint8; characters, heights: (side, side, slots), ids and heights in 1/100
        unit, 0 in empty slots; things, colors: (24, 24).
        """
        generator = np.random.default_rng(seed)
        page = generator.random() < self.page_ratio
        sample = draw_page(seed) if page else draw_sample(seed, self.split)
        index = int(generator.integers(len(sample.images)))
        targets = dense_targets(sample, index)
        targets = replace(targets, heights=(HEIGHT_SCALE * targets.caps).round().astype(np.int64))
        size = FRAME // self.side
        cells = cell_characters(targets, size, SLOTS * (size // CELL) ** 2)
        grid = (self.side, self.side, -1)
        image = self.processor.high_resolution(sample.images[index])
        return {
            "image": torch.tensor(image).permute(2, 0, 1),
            "characters": torch.tensor(cells["characters"]).view(grid),
            "heights": torch.tensor(cells["heights"]).view(grid),
            "things": torch.tensor(targets.things),
            "colors": torch.tensor(targets.colors),
        }


class Probe(nn.Module):
    """Frozen encoders, the arm's fusion, and linear heads on its image tokens.

    Args:
        model: model of the arm; its projector is not used.
    """

    def __init__(self, model: MGMForConditionalGeneration) -> None:
        super().__init__()
        self.side = round(model.config.image_tokens_per_image**0.5)
        self.model = model.requires_grad_(False)
        model.projector = nn.Identity()
        if model.mining is not None:
            model.mining.requires_grad_(True)
        width = model.config.vision_config.hidden_size
        self.heads = GridHeads(width, self.side, SLOTS * (FRAME // self.side // CELL) ** 2)

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the summed loss, and the metrics to log."""
        grid = self.tokens(batch["image"])
        with torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bfloat16()):
            characters, is_right = self.heads.character_loss(grid, batch["characters"])
            things = self.heads.thing_loss(grid, batch["things"], batch["colors"])
        share = is_right.float().mean().nan_to_num()
        return characters + things, {"things": things.detach(), "characters": share}

    def tokens(self, images: Tensor) -> Tensor:
        """Compute image tokens (images, side, side, width) of uint8 images (images, 3, S, S)."""
        with torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bfloat16()):
            tokens = self.model.get_image_features(pixel_values_aux=images)
        return tokens.unflatten(1, (self.side, self.side))

    @torch.no_grad()
    def recognise(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Test whether the heads are right for each character and object.

        Args:
            batch: arrays of `ProbeImages.draw`, stacked over images.

        Returns:
            Booleans (images, side, side, slots) of characters and (images, 24, 24) of objects.
        """
        grid = self.tokens(batch["image"])
        characters = self.heads.characters.logits(grid).argmax(-1)
        corners = self.heads.things(grid).unflatten(
            -1, (self.heads.corners, self.heads.corners, -1)
        )
        things = corners[..., :THINGS].argmax(-1).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return characters == batch["characters"], things == batch["things"]


def run_probe(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Train a unit's probe and evaluate it; writes cost.json.

    Args:
        settings: settings of the unit.
        folder: folder of the unit.

    Returns:
        The content of probe.json: columns of items, and the number recognised of each.
    """
    size = ProbeSettings(**settings["size"]["probe"])
    model = unit_model(settings)
    write_cost(model.config, folder)
    processor = MGMImageProcessor(
        image_size=model.config.image_size, image_size_aux=model.config.image_size_aux
    )
    torch.manual_seed(settings["seed"])  # the same heads for all arms
    probe = Probe(model)
    images = partial(ProbeImages, processor=processor, side=probe.side)
    first = FIRST_SEED + SEED_STEP * settings["seed"]

    def losses(done: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        stream = partial(images, split="train", page_ratio=size.page_ratio)
        return map(probe, batches_after(done, stream, first, size.batch_size, 0))

    trained = [parameter for parameter in probe.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, size.learning_rate, weight_decay=0.0, fused=True)
    train(probe, losses, [optimizer], size.steps, folder / "probe", lambda _: None)
    return evaluate(probe, images(HELD_OUT_SEED, split="held_out", page_ratio=0.0), size.held_out)


def evaluate(probe: Probe, images: ProbeImages, count: int) -> dict[str, Any]:
    """Count recognised characters, by height bin, and objects of held-out images.

    Args:
        probe: trained probe.
        images: held-out images.
        count: number of images to use.
    """
    probe.eval()
    rows: list[tuple[int, str, float | None, int, int]] = []
    for number in range(count):
        batch = {name: value[None] for name, value in images.draw(images.seed + number).items()}
        characters, things = probe.recognise(batch)
        heights = batch["heights"] / HEIGHT_SCALE
        for low, high in HEIGHT_BINS:
            inside = (heights >= low) & (heights < high)
            if inside.any():
                rows.append((number, "character", low, *_counted(characters, inside)))
        is_thing = batch["things"] > 0
        if is_thing.any():
            rows.append((number, "thing", None, *_counted(things, is_thing)))
    columns = list(zip(*rows, strict=True))
    names = ("image", "kind", "height", "totals", "right")
    return {name: list(column) for name, column in zip(names, columns, strict=True)}


def _counted(is_right: Tensor, selected: Tensor) -> tuple[int, int]:
    return int(selected.sum()), int((is_right & selected).sum())


def main() -> None:
    """Run the probe of the unit whose folder is the first argument."""
    folder = Path(sys.argv[1])
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    content = run_probe(settings, folder)
    with atomic_file(folder / PROBE_FILE) as part:
        part.write_text(json.dumps(content) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_command(main)

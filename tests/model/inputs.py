"""Inputs of golden cases, computed without the project's image and text code."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mgm.model.configuration_mgm import MGMConfig
from tests.golden_files import golden

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)
GREY = (122, 116, 104)
PUBLISHED_IMAGE = -200


@dataclass
class Case:
    """A golden case of a model: its manifest entry and expected values."""

    entry: dict[str, Any]
    figures: dict[str, np.ndarray]

    @classmethod
    def read(cls, manifest: dict[str, Any], model: str, case: str) -> "Case":
        entry = manifest[model]["cases"][case]
        with np.load(golden(f"models/{entry['file']}")) as file:
            return cls(entry, {name: file[name] for name in file.files})

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.figures[name])


def pixels(names: list[str], config: MGMConfig) -> dict[str, Tensor]:
    """`pixel_values` and `pixel_values_aux` of golden images, padded to squares."""
    aux = torch.stack([_high_resolution(name, config.image_size_aux) for name in names])
    grid, size = config.image_grid, config.image_size
    low = F.interpolate(aux, size=(size * grid, size * grid), mode="bilinear", align_corners=False)
    crops = low.unflatten(3, (grid, size)).unflatten(2, (grid, size))  # (B, 3, grid, H, grid, W)
    crops = crops.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    if config.image_global:
        whole = F.interpolate(low, size=(size, size), mode="bilinear", align_corners=False)
        crops = torch.cat([crops, whole.unsqueeze(1)], dim=1)
    return {"pixel_values": crops, "pixel_values_aux": aux}


def _high_resolution(name: str, size: int) -> Tensor:
    image = Image.open(golden(f"images/{name}.png")).convert("RGB")
    side = max(image.size)
    square = Image.new("RGB", (side, side), GREY)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    levels = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))
    values = ((levels * (1 / 255)).astype(np.float32) - MEAN) / STD
    return torch.from_numpy(values).permute(2, 0, 1).contiguous()


def expanded(case: Case, config: MGMConfig, left: bool = False) -> dict[str, Tensor]:
    """`input_ids`, `attention_mask`, `labels` of a case, image markers expanded, padded again."""
    rows = []
    figures = case.figures
    for ids, mask, labels in zip(
        figures["input_ids"], figures["attention_mask"], figures["labels"], strict=True
    ):
        ids, labels = ids[mask.astype(bool)], labels[mask.astype(bool)]
        repeats = np.where(ids == PUBLISHED_IMAGE, config.image_tokens_per_image, 1)
        labels = np.where(ids == PUBLISHED_IMAGE, -100, labels)
        ids = np.where(ids == PUBLISHED_IMAGE, config.image_token_id, ids)
        limit = config.model_max_length
        rows.append((np.repeat(ids, repeats)[:limit], np.repeat(labels, repeats)[:limit]))
    length = max(len(ids) for ids, _ in rows)
    batch = {
        "input_ids": torch.zeros(len(rows), length, dtype=torch.long),
        "attention_mask": torch.zeros(len(rows), length, dtype=torch.long),
        "labels": torch.full((len(rows), length), -100),
    }
    for row, (ids, labels) in enumerate(rows):
        span = slice(length - len(ids), length) if left else slice(0, len(ids))
        batch["input_ids"][row, span] = torch.from_numpy(ids)
        batch["attention_mask"][row, span] = 1
        batch["labels"][row, span] = torch.from_numpy(labels)
    return batch


def prompt(case: Case, config: MGMConfig) -> Tensor:
    """`gen_input_ids` of a case with image markers expanded."""
    ids = case.figures["gen_input_ids"][0]
    repeats = np.where(ids == PUBLISHED_IMAGE, config.image_tokens_per_image, 1)
    ids = np.where(ids == PUBLISHED_IMAGE, config.image_token_id, ids)
    return torch.from_numpy(np.repeat(ids, repeats)).unsqueeze(0)


def difference(ours: Tensor, theirs: Tensor | np.ndarray) -> float:
    """Norm of the difference over the norm of the expected values."""
    theirs = torch.as_tensor(theirs)
    assert ours.shape == theirs.shape
    return ((ours.double() - theirs.double()).norm() / theirs.double().norm()).item()

"""Tiny models with random weights, built in code."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from mgm.model.configuration_mgm import MGMConfig
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.model.vision.convnext import ConvNextTower
from mgm.model.vision.convnext_config import ConvNextTowerConfig

VOCABULARY = 40
TEXT: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
    "projection_dim": 8,
}
VISION_AUX: dict[str, Any] = {"depths": [1, 1, 1, 1], "dims": [4, 8, 12, 16]}
HD: dict[str, Any] = {"image_grid": 2, "image_global": True, "image_size_aux": 256}


def tiny_config(**overrides: Any) -> MGMConfig:
    values: dict[str, Any] = {
        "text_config": TEXT,
        "vision_config": VISION,
        "vision_aux_config": VISION_AUX,
        "image_size_aux": 128,
    }
    return MGMConfig(**(values | overrides))


def tiny_model(seed: int = 0, **overrides: Any) -> MGMForConditionalGeneration:
    """A model in eval mode, without near-zero weights."""
    torch.manual_seed(seed)
    model = MGMForConditionalGeneration(tiny_config(**overrides)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def random_images(config: MGMConfig, count: int, seed: int = 1) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    crop, whole = config.image_size, config.image_size_aux
    images = {"pixel_values": torch.randn(count, config.crops, 3, crop, crop, generator=draw)}
    if config.vision_aux_config is not None:
        images["pixel_values_aux"] = torch.randn(count, 3, whole, whole, generator=draw)
    return images


def ids_of(config: MGMConfig, layout: str) -> list[int]:
    """Ids of a sample written as letters, with `I` for an image: "abIc"."""
    ids: list[int] = []
    for letter in layout:
        image = [config.image_token_id] * config.image_tokens_per_image
        ids += image if letter == "I" else [3 + (ord(letter) - ord("a")) % (VOCABULARY - 3)]
    return ids


def batch_of(config: MGMConfig, layouts: list[str], left: bool = False) -> dict[str, Tensor]:
    rows = [ids_of(config, layout) for layout in layouts]
    length = max(map(len, rows))
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, of_row in enumerate(rows):
        span = slice(length - len(of_row), length) if left else slice(0, len(of_row))
        ids[row, span] = torch.tensor(of_row)
        mask[row, span] = 1
    return {"input_ids": ids, "attention_mask": mask}


def save_towers(clip: Path, convnext: Path) -> None:
    """Save two random towers to folders."""
    CLIPVisionModel(CLIPVisionConfig(**VISION)).save_pretrained(clip)
    aux = ConvNextTower(ConvNextTowerConfig(**VISION_AUX)).state_dict()
    convnext.mkdir()
    trunk = {f"visual.trunk.{name}": value for name, value in aux.items()}
    torch.save(trunk, convnext / "open_clip_pytorch_model.bin")
    described = {"model_cfg": {"vision_cfg": {"timm_model_name": "convnext_nano"}}}
    (convnext / "open_clip_config.json").write_text(json.dumps(described))

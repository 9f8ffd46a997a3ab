"""Initial model of a unit: the arm's fusion, with initial weights shared by all arms.

python -m playground.ablation.execution.initial_model FOLDER
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mgm.atomic import atomic_file, atomic_folder
from mgm.data.image_processing_mgm import IMAGE_CONFIG_FIELDS, MGMImageProcessor
from mgm.data.processing_mgm import MGMProcessor
from mgm.data.text.tokenizer import image_token_id_of, load_tokenizer
from mgm.errors import run_command
from mgm.model.configuration_mgm import MGMConfig
from mgm.model.loading import save_model
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.train.estimate.vision_cost import vision_cost
from playground.ablation.execution.run_unit import COST_FILE
from playground.ablation.execution.runner import encoder_folders
from playground.ablation.study import Arm, Flags

REFERENCE = Arm("reference", "patch info mining, as published")  # source of shared initial weights
TEMPLATE = "nano"
# As in scripts/nano/train/stage_1.sh.
CONFIG: Flags = {
    "conversation": TEMPLATE,
    "projector_type": "mlp2x_gelu",
    "vision_feature_layer": -2,
    "image_aspect_ratio": "pad",
    "image_size_aux": 384,
    "model_max_length": 1024,
}


def initial_model(
    arm: Arm, seed: int, language_model: Path, encoders: Path
) -> MGMForConditionalGeneration:
    """Build a model from pre-trained components; fusion and projector are random, by seed.

    New weights with the same name and shape as in `REFERENCE` are equal in all arms, so that arms
    do not differ by random initialisation.

    Args:
        arm: the arm.
        seed: random seed.
        language_model: folder of the language model.
        encoders: folder of the encoder sets.
    """
    reference = _assemble(REFERENCE, seed, language_model, encoders).state_dict()
    model = _assemble(arm, seed, language_model, encoders)
    loaded = ("vision_tower.", "vision_tower_aux.", "language_model.")
    state = model.state_dict()
    shared = {
        name: tensor
        for name, tensor in reference.items()
        if not name.startswith(loaded) and name in state and state[name].shape == tensor.shape
    }
    model.load_state_dict(shared, strict=False)
    return model


def _assemble(
    arm: Arm, seed: int, language_model: Path, encoders: Path
) -> MGMForConditionalGeneration:
    torch.manual_seed(seed)
    vit, convnext = encoder_folders(arm, encoders)
    config: Flags = CONFIG | {"fusion": arm.fusion} | arm.config
    token = image_token_id_of(load_tokenizer(language_model))
    return MGMForConditionalGeneration.from_parts(
        language_model, vit, convnext, dtype=torch.float32, image_token_id=token, **config
    )


def save(model: MGMForConditionalGeneration, language_model: Path, folder: Path) -> None:
    """Write a model with its processor, as input of the training."""
    tokenizer = load_tokenizer(language_model)
    processor = MGMProcessor(
        MGMImageProcessor(),
        tokenizer,
        conversation=TEMPLATE,
        image_token_id=model.config.image_token_id,
        patch_size=model.config.pixels_per_token,
    )
    for name in IMAGE_CONFIG_FIELDS:
        setattr(processor.image_processor, name, getattr(model.config, name))
    with atomic_folder(folder) as part:
        save_model(model, part)
        processor.save_pretrained(part)


def cost(config: MGMConfig) -> dict[str, Any]:
    """Compute parameters and FLOPs of the vision components per image, and its number of tokens."""
    whole = vision_cost(config)
    return {
        "parameters": whole.parameters,
        "flops": whole.flops,
        "parts": {name: asdict(part) for name, part in whole.parts.items()},
        "image_tokens": config.image_tokens_per_image,
    }


def write_cost(config: MGMConfig, folder: Path) -> None:
    """Write cost.json of a unit."""
    with atomic_file(folder / COST_FILE) as part:
        part.write_text(json.dumps(cost(config), indent=1) + "\n", encoding="utf-8")


def unit_model(settings: Mapping[str, Any]) -> MGMForConditionalGeneration:
    """Build the initial model of a unit from its settings."""
    paths = settings["paths"]
    arm = Arm(**settings["arm"])
    return initial_model(
        arm, settings["seed"], Path(paths["language_model"]), Path(paths["encoders"])
    )


def main() -> None:
    """Write the initial model and the cost of the unit whose folder is the first argument."""
    folder = Path(sys.argv[1])
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = unit_model(settings)
    save(model, Path(settings["paths"]["language_model"]), folder / "initial")
    write_cost(model.config, folder)


if __name__ == "__main__":
    run_command(main)

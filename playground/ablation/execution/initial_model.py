"""The model that a unit starts from: the arm's fusion, with initial weights shared by all arms.

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

REFERENCE = Arm("reference", "patch info mining, as published")  # whose new weights all arms share
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
    """A model of pre-trained parts, whose new weights (fusion and projector) depend on the seed.

    Those with the same name and shape as in patch info mining with the encoder set "base" are equal
    in all arms: differences between arms are not differences between random numbers.

    Args:
        arm: the arm.
        seed: of the random numbers.
        language_model: its folder.
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
    """Write a model with its processor, as training starts from it."""
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
    """Parameters and FLOPs of the vision side for one image, by part and in all, and its tokens."""
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
    """The initial model of a unit with these settings."""
    paths = settings["paths"]
    arm = Arm(**settings["arm"])
    return initial_model(
        arm, settings["seed"], Path(paths["language_model"]), Path(paths["encoders"])
    )


def main() -> None:
    """Write the initial model of the unit of the command line, and its cost."""
    folder = Path(sys.argv[1])
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = unit_model(settings)
    save(model, Path(settings["paths"]["language_model"]), folder / "initial")
    write_cost(model.config, folder)


if __name__ == "__main__":
    run_command(main)

"""Fields of the model's config that training flags set."""

from pathlib import Path
from typing import Any

from mgm.errors import MGMError
from mgm.model.configuration_mgm import MGMConfig
from mgm.model.vision.fusion.fusion_config import FusionConfig
from mgm.train.args.validation import Arguments

# Compat: defaults of the published flags for a model that is built from its components.
PUBLISHED_DEFAULTS = {
    "projector_type": "linear",
    "vision_feature_layer": -1,
    "vision_feature_select": "patch",
    "image_aspect_ratio": "square",
    "image_size_aux": 320,
    "image_grid": 1,
    "image_global": False,
    "model_max_length": 512,
}
# Fields that are fixed when a model is built, and the flag of each.
FIXED_FIELDS = {
    "projector_type": "mm_projector_type",
    "vision_feature_layer": "mm_vision_select_layer",
    "vision_feature_select": "mm_vision_select_feature",
}
FIXED_FUSION_FIELDS = ("mode", "stages")  # which decide the weights of the fusion
IMAGE_SETTINGS = ("image_size_aux", "image_grid", "image_global", "image_aspect_ratio")


def config_fields(arguments: Arguments) -> dict[str, Any]:
    """The fields of `MGMConfig` that are set by flags."""
    model, data, training = arguments
    values = {name: getattr(model, flag) for name, flag in FIXED_FIELDS.items()}
    values |= {name: getattr(data, name) for name in IMAGE_SETTINGS}
    values["model_max_length"] = training.model_max_length
    values["fusion"] = None if model.fusion is None else FusionConfig.from_flag(model.fusion)
    return {name: value for name, value in values.items() if value is not None}


def check_fixed_fields(given: dict[str, Any], config: MGMConfig, folder: Path) -> None:
    """Refuse flags that a trained model's weights do not fit.

    Args:
        given: the fields that are set by flags.
        config: config of the model in the folder.
        folder: folder of the model, for the message.

    Raises:
        MGMError: names the flag, its value and that of the model.
    """
    for name, flag in FIXED_FIELDS.items():
        own = getattr(config, name)
        if given.get(name, own) != own:
            raise MGMError(f"--{flag} {given[name]}: {folder} was made with {own}; leave it out")
    fusion = given.get("fusion", config.fusion)
    for name in FIXED_FUSION_FIELDS:
        own = getattr(config.fusion, name)
        if getattr(fusion, name) != own:
            raise MGMError(
                f"--fusion: {name} is {getattr(fusion, name)!r}, and {folder} was made with "
                f"{own!r}, whose weights do not fit another; leave it out, or start from a "
                "language model and encoders"
            )

"""Low-resolution vision tower: a CLIP or SigLIP ViT, run up to the selected hidden layer."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    PretrainedConfig,
    PreTrainedModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.image_utils import (
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)

from mgm.errors import MGMError
from mgm.model.config_checks.rules import check_vision_config
from mgm.model.config_checks.weights import check_vision_sizes
from mgm.model.files.hub import part_folder
from mgm.model.files.json_fields import shown
from mgm.model.files.json_file import config_errors, read_json, read_optional_json
from mgm.model.files.weight_files import load_into, read_folder, source_of


class VisionTower(PreTrainedModel):
    """Embeddings and encoder layers of a ViT of transformers, under the same weight names.

    Args:
        config: config of the ViT in transformers.
        feature_layer: the hidden state to return, as `MGMConfig.vision_feature_layer`. Later layers
            are kept for saving and not run.
    """

    class_tokens = 1  # before the patch tokens

    def __init__(self, config: PretrainedConfig, feature_layer: int = -2) -> None:
        super().__init__(config)
        outputs = len(self.layers) + 1  # the embeddings count as output 0
        self.layers_run = feature_layer if feature_layer >= 0 else outputs + feature_layer

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer's layers, first to last."""
        return cast(nn.ModuleList, self.get_submodule("encoder.layers"))

    def embed(self, pixel_values: Tensor) -> Tensor:
        """Normalised pixels (crops, 3, H, W) -> input of the first layer."""
        return self.get_submodule("embeddings")(pixel_values)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Normalised pixels (crops, 3, H, W) -> patch tokens (crops, tokens, width)."""
        hidden = self.embed(pixel_values)
        for layer in self.layers[: self.layers_run]:
            hidden = layer(hidden, None)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        return hidden[:, self.class_tokens :]


class ClipTower(VisionTower, CLIPVisionModel):
    """CLIP's vision transformer."""

    def embed(self, pixel_values: Tensor) -> Tensor:
        """Embeddings with the LayerNorm that CLIP has before its first layer."""
        return self.pre_layrnorm(self.embeddings(pixel_values))


class SiglipTower(VisionTower, SiglipVisionModel):
    """The vision transformer of SigLIP, and of SigLIP 2 at a fixed resolution."""

    class_tokens = 0

    def __init__(self, config: SiglipVisionConfig, feature_layer: int = -2) -> None:
        config.vision_use_head = False  # the head pools all tokens into one
        super().__init__(config, feature_layer)


@dataclass(frozen=True, slots=True)
class TowerKind:
    """A supported ViT architecture, and how its checkpoints are read.

    Attributes:
        model_type: `model_type` of its config in transformers.
        tower: class of the tower.
        config: class of its config.
        whole: `model_type` of the image-text model whose vision model it is.
        ignored: prefixes of weight names in such a folder that the tower does not have.
        image_mean: default mean of each colour channel, of values from 0 to 1.
        image_std: standard deviation of each colour channel.
    """

    model_type: str
    tower: type[VisionTower]
    config: type[PretrainedConfig]
    whole: str
    ignored: tuple[str, ...]
    image_mean: Iterable[float]
    image_std: Iterable[float]


_OF_TEXT = ("text_model.", "text_projection.", "visual_projection.", "logit_scale", "logit_bias")
CLIP = TowerKind(
    model_type="clip_vision_model",
    tower=ClipTower,
    config=CLIPVisionConfig,
    whole="clip",
    ignored=_OF_TEXT,
    image_mean=OPENAI_CLIP_MEAN,
    image_std=OPENAI_CLIP_STD,
)
TOWER_KINDS = (
    CLIP,
    TowerKind(
        model_type="siglip_vision_model",
        tower=SiglipTower,
        config=SiglipVisionConfig,
        whole="siglip",
        ignored=(*_OF_TEXT, "head."),
        image_mean=IMAGENET_STANDARD_MEAN,
        image_std=IMAGENET_STANDARD_STD,
    ),
)


def tower_kind(model_type: object) -> TowerKind:
    """Look up the architecture with this `model_type`, of a vision model or image-text model.

    Raises:
        MGMError: the type is not supported; lists those that are.
    """
    for kind in TOWER_KINDS:
        if model_type in (kind.model_type, kind.whole):
            return kind
    names = ", ".join(kind.model_type for kind in TOWER_KINDS)
    raise MGMError(
        f"config: vision_config.model_type is {shown(model_type)}; valid: {names} (of SigLIP 2 "
        "those of a fixed resolution, which are siglip_vision_model; NaFlex has no fixed grid "
        "of tokens)"
    )


def vision_config_from(given: dict[str, Any] | PretrainedConfig) -> PretrainedConfig:
    """The ViT's config from a dictionary; without a `model_type` it is CLIP's.

    Raises:
        MGMError: the architecture is not supported, or a field is not valid.
    """
    values: dict[str, Any] = dict(given) if isinstance(given, dict) else given.to_dict()
    check_vision_config(values, "vision_config.")
    kind = tower_kind(values.pop("model_type", None) or CLIP.model_type)
    return given if isinstance(given, kind.config) else kind.config(**values)


def build_vision_tower(config: PretrainedConfig, feature_layer: int = -2) -> VisionTower:
    """Build a tower with random weights.

    Args:
        config: config of the ViT; its `model_type` decides the class.
        feature_layer: index as in `MGMConfig.vision_feature_layer`.
    """
    return tower_kind(config.model_type).tower(config, feature_layer)


def read_vision_config(folder: str | os.PathLike[str]) -> PretrainedConfig:
    """Read the vision config of a folder with a vision model or an image-text model.

    `image_mean` and `image_std` of the folder's preprocessor_config.json, if any, are set on it.

    Raises:
        MGMError: the file is missing or broken, or describes another kind of model.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise MGMError(
            f"{path}: not found; give a folder with a vision transformer in transformers' layout"
        )
    values = read_json(path)
    images = Path(folder) / "preprocessor_config.json"
    settings = read_optional_json(images)
    with config_errors(images):
        check_vision_config({name: settings.get(name) for name in ("image_mean", "image_std")})
    with config_errors(path):
        part = dict(values.get("vision_config", values))
        part.setdefault("model_type", values.get("model_type"))
        check_vision_config(part)
        kind = tower_kind(part.pop("model_type"))
        config = kind.config(**part)
        for name in ("image_mean", "image_std"):
            if name in settings:
                setattr(config, name, settings[name])
        return config


def load_vision_tower(
    folder: str | os.PathLike[str], feature_layer: int = -2, dtype: torch.dtype | None = None
) -> VisionTower:
    """Load a tower from a folder in transformers' layout.

    Args:
        folder: holds config.json and weights of a vision model or an image-text model; or its name
            on the hub.
        feature_layer: index as in `MGMConfig.vision_feature_layer`.
        dtype: dtype of the weights; None: float32.

    Raises:
        MGMError: the folder or its weights are not a supported ViT.
    """
    folder = part_folder(folder)
    config = read_vision_config(folder)
    file = Path(folder) / "config.json"
    # Compat: with and without the prefix that transformers 5 dropped.
    stored = {
        name.removeprefix("vision_model."): tensor for name, tensor in read_folder(folder).items()
    }
    kind = tower_kind(config.model_type)
    check_vision_sizes(config, stored, file, class_tokens=kind.tower.class_tokens)
    with config_errors(file):
        tower = build_vision_tower(config, feature_layer)
    weights = {
        name: tensor.read() for name, tensor in stored.items() if not name.startswith(kind.ignored)
    }
    load_into(tower, weights, source_of(stored))
    return tower.to(dtype or torch.float32)

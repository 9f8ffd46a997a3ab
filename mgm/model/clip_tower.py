"""The low-resolution tower: CLIP's vision transformer, up to the layer whose output is used."""

import os
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig
from transformers.models.clip.modeling_clip import (
    CLIPEncoder,
    CLIPPreTrainedModel,
    CLIPVisionEmbeddings,
)

from mgm.errors import MGMError
from mgm.model.config_file import named_faults, read_json
from mgm.model.weights import load_into, read_weights

NOT_VISION = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")


class ClipTower(CLIPPreTrainedModel):
    """CLIP's embeddings and layers, with the weight names of transformers' CLIPVisionModel.

    Args:
        config: geometry of the transformer.
        feature_layer: whose output is used, as `MGMConfig.vision_feature_layer`. Later layers keep
            their weights, for saving, and are not run.
    """

    config: CLIPVisionConfig  # ty: ignore[incompatible-attribute-override]
    main_input_name = "pixel_values"

    def __init__(self, config: CLIPVisionConfig, feature_layer: int = -2) -> None:
        super().__init__(config)
        self.embeddings = CLIPVisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = CLIPEncoder(config)  # ty: ignore[invalid-argument-type]
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        outputs = config.num_hidden_layers + 1  # the embeddings count as output 0
        self.layers_run = feature_layer if feature_layer >= 0 else outputs + feature_layer
        self.post_init()

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(crops, 3, H, W) normalised pixels -> (crops, tokens, width), without the class token."""
        hidden = self.pre_layrnorm(self.embeddings(pixel_values))
        for layer in self.encoder.layers[: self.layers_run]:
            hidden = layer(hidden, None)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        return hidden[:, 1:]


def read_clip_config(folder: str | os.PathLike[str]) -> CLIPVisionConfig:
    """The vision part of a CLIP folder's config.json, which may describe all of CLIP.

    Raises:
        MGMError: no such file, a broken one, or another kind of model.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise MGMError(f"{path}: not found; give a folder with a CLIP in transformers' layout")
    values = read_json(path)
    with named_faults(path):
        values = values.get("vision_config", values)
        found = values.pop("model_type", None)
        if found not in ("clip_vision_model", "clip"):
            raise MGMError(
                f"{path}: model_type is {found!r}; give a folder of a clip or clip_vision_model"
            )
        return CLIPVisionConfig(**values)


def load_clip_tower(
    folder: str | os.PathLike[str], feature_layer: int = -2, dtype: torch.dtype | None = None
) -> ClipTower:
    """A CLIP tower with the weights of a folder in transformers' layout.

    Args:
        folder: holds config.json and weights, of all of CLIP or of the vision part.
        feature_layer: as `MGMConfig.vision_feature_layer`.
        dtype: of the weights; None: float32.

    Raises:
        MGMError: the folder or its weights are not a CLIP tower.
    """
    config = read_clip_config(folder)
    with named_faults(Path(folder) / "config.json"):
        tower = ClipTower(config, feature_layer)
    # Compat: with and without the prefix that transformers 5 dropped.
    weights = {
        name.removeprefix("vision_model."): value for name, value in read_weights(folder).items()
    }
    load_into(tower, weights, source=str(folder), ignore=NOT_VISION)
    return tower.to(dtype or torch.float32)

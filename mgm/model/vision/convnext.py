"""High-resolution vision tower: the four stages of timm's ConvNeXt or ConvNeXt V2."""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import timm
import torch
from timm.layers import get_act_layer
from timm.models.convnext import ConvNeXt
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mgm.errors import MGMError
from mgm.model.config_checks.rules import check_convnext_config
from mgm.model.files.hub import part_folder
from mgm.model.files.json_fields import shown
from mgm.model.files.json_file import config_errors, read_json
from mgm.model.files.weight_files import load_into, read_folder, read_weights, source_of
from mgm.model.vision.convnext_config import ConvNextTowerConfig
from mgm.model.vision.convnext_shapes import convnext_geometry

OPENCLIP_CONFIG = "open_clip_config.json"
OPENCLIP_PREFIX = "visual.trunk."
Weight = TypeVar("Weight")  # a tensor, or one that is not read yet
ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu")


class ConvNextTower(nn.Module):
    """ConvNeXt without its head; returns the feature maps of all four stages.

    Attributes:
        gradient_checkpointing: whether training keeps only the inputs of blocks and recomputes the
            rest; transformers' `gradient_checkpointing_enable` sets it.
    """

    def __init__(self, config: ConvNextTowerConfig) -> None:
        super().__init__()
        self.config = config
        network = ConvNeXt(
            num_classes=0,
            depths=tuple(config.depths),
            dims=tuple(config.dims),
            kernel_sizes=tuple(config.kernel_sizes),
            stem_type=config.stem_type,
            conv_mlp=config.conv_mlp,
            use_grn=config.use_grn,
            ls_init_value=config.ls_init_value,
            norm_layer=config.norm_layer,
            norm_eps=config.layer_norm_eps,
            drop_path_rate=config.drop_path_rate,
            act_layer=config.hidden_act,
        )
        self.stem = network.stem
        self.stages = network.stages
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """Normalised pixels (images, 3, H, W) -> maps (images, dims[s], H / 4 / 2**s, the same)."""
        hidden = self.stem(pixel_values)
        maps = []
        for stage in self.stages:
            hidden = self._run(stage, hidden)
            maps.append(hidden)
        return maps

    def _run(self, stage: nn.Module, hidden: Tensor) -> Tensor:
        if not (self.gradient_checkpointing and self.training and torch.is_grad_enabled()):
            return stage(hidden)
        hidden = stage.get_submodule("downsample")(hidden)
        for block in stage.get_submodule("blocks").children():
            hidden = self._gradient_checkpointing_func(block.__call__, hidden)
        return hidden


def load_convnext_tower(
    folder: str | os.PathLike[str], dtype: torch.dtype | None = None
) -> ConvNextTower:
    """Load a ConvNeXt tower from a folder in OpenCLIP's or timm's layout.

    Args:
        folder: holds weights, and open_clip_config.json or a config.json with an `architecture`; or
            its name on the hub or in OpenCLIP, see `mgm.model.files.hub.part_folder`.
        dtype: dtype of the weights; None: float32.

    Raises:
        MGMError: the folder or its weights are not a ConvNeXt.
    """
    folder = part_folder(folder)
    settings = read_architecture(folder)
    trunk = read_trunk(folder)
    shapes = {name: tuple(tensor.shape) for name, tensor in trunk.items()}
    config = ConvNextTowerConfig(**(convnext_geometry(shapes, str(folder)) | settings))
    tower = ConvNextTower(config)
    load_into(tower, trunk, source=source_of(read_folder(folder)), ignore=("norm_pre.", "head."))
    return tower.to(dtype or torch.float32)


def read_trunk(folder: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the ConvNeXt's weights of a folder, under timm's names."""
    weights = read_weights(folder)
    return openclip_trunk(weights) or weights


def openclip_trunk(weights: Mapping[str, Weight]) -> dict[str, Weight]:
    """The ConvNeXt's weights of an OpenCLIP model, under timm's names; empty for others."""
    return {
        name.removeprefix(OPENCLIP_PREFIX): tensor
        for name, tensor in weights.items()
        if name.startswith(OPENCLIP_PREFIX)
    }


def read_architecture(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Fields of `ConvNextTowerConfig` that weight shapes do not determine, from a folder's config.

    Raises:
        MGMError: there is no config, or it is not that of a ConvNeXt.
    """
    openclip, of_timm = Path(folder) / OPENCLIP_CONFIG, Path(folder) / "config.json"
    path = openclip if openclip.is_file() or not of_timm.is_file() else of_timm
    if not path.is_file():
        raise MGMError(
            f"{path}: not found, nor timm's config.json; "
            "give a folder with a ConvNeXt in OpenCLIP's or timm's layout"
        )
    settings = read_json(path)
    with config_errors(path):
        if path == of_timm:
            check_convnext_config(settings.get("model_args", {}), "model_args.")
            images = settings.get("pretrained_cfg", {})
            fields = _timm_architecture(settings, path)
        else:
            name = settings.get("model_cfg", {}).get("vision_cfg", {}).get("timm_model_name")
            if "convnext" not in str(name):
                raise MGMError(
                    f"{path}: timm_model_name is {shown(name)}; give a folder with a ConvNeXt"
                )
            images, fields = settings.get("preprocess_cfg", {}), {}
        normalisation = {"image_mean": images.get("mean"), "image_std": images.get("std")}
        known = {name: value for name, value in normalisation.items() if value is not None}
        check_convnext_config(known)
        return fields | known


def _timm_architecture(settings: dict[str, Any], path: Path) -> dict[str, Any]:
    """Norm and activation of the timm network that config.json names, built without weights."""
    name, known = settings.get("architecture"), timm.list_models("*convnext*", module="convnext")
    if name not in known:
        raise MGMError(
            f"{path}: architecture is {shown(name)}; give a folder with one of timm "
            f"{timm.__version__}'s ConvNeXts: {', '.join(known)}"
        )
    with torch.device("meta"):
        network = timm.create_model(str(name), **settings.get("model_args", {}))
    norm: Any = list(network.get_submodule("stem").children())[-1]
    activation = type(network.get_submodule("stages.0.blocks.0.mlp.act"))
    names = [name for name in ACTIVATIONS if get_act_layer(name) is activation]
    if not names:
        raise MGMError(
            f"{path}: its activation is {activation.__name__}; expected {', '.join(ACTIVATIONS)}"
        )
    return {
        "layer_norm_eps": norm.eps,
        "norm_layer": type(norm).__name__.lower(),
        "hidden_act": names[0],
    }

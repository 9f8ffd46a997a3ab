"""The high-resolution tower: the four stages of a ConvNeXt, through timm."""

import os
from pathlib import Path

import torch
from timm.models.convnext import ConvNeXt
from torch import Tensor, nn

from mgm.errors import MGMError
from mgm.model.config import ConvNextTowerConfig
from mgm.model.config_file import named_faults, read_json
from mgm.model.convnext_geometry import convnext_geometry
from mgm.model.weights import load_into, read_weights


class ConvNextTower(nn.Module):
    """Stem and stages of a ConvNeXt; all four stages' outputs are used."""

    def __init__(self, config: ConvNextTowerConfig) -> None:
        super().__init__()
        self.config = config
        network = ConvNeXt(
            num_classes=0,
            depths=tuple(config.depths),
            dims=tuple(config.dims),
            norm_eps=config.layer_norm_eps,
            drop_path_rate=config.drop_path_rate,
            act_layer=config.hidden_act,
        )
        self.stem = network.stem
        self.stages = network.stages

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """(images, 3, H, W) normalised pixels -> maps (images, dims[s], H / 4 / 2**s, the same)."""
        hidden = self.stem(pixel_values)
        maps = []
        for stage in self.stages:
            hidden = stage(hidden)
            maps.append(hidden)
        return maps


def load_convnext_tower(
    folder: str | os.PathLike[str], dtype: torch.dtype | None = None
) -> ConvNextTower:
    """A ConvNeXt tower with the weights of a folder in OpenCLIP's layout.

    Args:
        folder: holds open_clip_config.json and weights named `visual.trunk.…`.
        dtype: of the weights; None: float32.

    Raises:
        MGMError: the folder or its weights are not an OpenCLIP ConvNeXt.
    """
    trunk = read_trunk(folder)
    shapes = {name: tuple(tensor.shape) for name, tensor in trunk.items()}
    tower = ConvNextTower(ConvNextTowerConfig(**convnext_geometry(shapes, str(folder))))
    load_into(tower, trunk, source=str(folder), ignore=("norm_pre.", "head."))
    return tower.to(dtype or torch.float32)


def read_trunk(folder: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The image trunk's weights of an OpenCLIP folder, `visual.trunk.` removed from their names.

    Raises:
        MGMError: config or weights are missing, or the image tower is no ConvNeXt.
    """
    path = Path(folder) / "open_clip_config.json"
    if not path.is_file():
        raise MGMError(f"{path}: not found; give a folder with a ConvNeXt in OpenCLIP's layout")
    settings = read_json(path)
    with named_faults(path):
        name = settings.get("model_cfg", {}).get("vision_cfg", {}).get("timm_model_name")
    if "convnext" not in str(name):
        raise MGMError(f"{path}: timm_model_name is {name!r}; give a folder with a ConvNeXt")
    prefix = "visual.trunk."
    weights = read_weights(folder)
    return {
        key.removeprefix(prefix): tensor
        for key, tensor in weights.items()
        if key.startswith(prefix)
    }

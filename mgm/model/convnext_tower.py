"""The high-resolution tower: the four stages of a ConvNeXt, through timm."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from timm.models.convnext import ConvNeXt
from torch import Tensor, nn

from mgm.errors import MGMError
from mgm.model.config import ConvNextTowerConfig
from mgm.model.config_file import named_faults, read_json
from mgm.model.weights import load_into, read_weights

XXLARGE_DIMS = [384, 768, 1536, 3072]


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


def config_from_shapes(shapes: Mapping[str, Sequence[int]], source: str) -> ConvNextTowerConfig:
    """The geometry of a ConvNeXt from its weights' shapes, named `stem.…`, `stages.…`.

    Raises:
        MGMError: these are not the weights of a four-stage ConvNeXt.
    """
    depths = [0, 0, 0, 0]
    dims = [0, 0, 0, 0]
    for name, shape in shapes.items():
        match = re.fullmatch(r"stages\.([0-3])\.blocks\.(\d+)\.conv_dw\.weight", name)
        if match:
            stage = int(match.group(1))
            depths[stage] = max(depths[stage], int(match.group(2)) + 1)
            dims[stage] = shape[0]
    if 0 in depths:
        raise MGMError(
            f"{source}: holds no four-stage ConvNeXt (stages.<0-3>.blocks.<n>.conv_dw.weight); "
            "give a folder of OpenCLIP that does"
        )
    # timm builds every ConvNeXt with eps 1e-6 but the largest one.
    eps = 1e-5 if dims == XXLARGE_DIMS else 1e-6
    return ConvNextTowerConfig(depths=depths, dims=dims, layer_norm_eps=eps)


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
    config = config_from_shapes({name: tensor.shape for name, tensor in trunk.items()}, str(folder))
    tower = ConvNextTower(config)
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

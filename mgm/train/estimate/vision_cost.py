"""Parameters and FLOPs of a model's vision side: both encoders, their fusion and the projector."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mgm.model.configuration_mgm import MGMConfig
from mgm.model.image_features import ImageFeaturesMixin

Result = TypeVar("Result")


@dataclass(frozen=True)
class PartCost:
    """Parameters of a part, and the FLOPs of its forward pass for one image."""

    parameters: int
    flops: int


@dataclass(frozen=True)
class VisionCost:
    """Cost of the vision side for one image.

    Attributes:
        parts: by name in the model: `vision_tower`, `vision_tower_aux`, `mining` (or its rival) and
            `projector`. An encoder whose output is not used costs nothing.
    """

    parts: Mapping[str, PartCost]

    @property
    def parameters(self) -> int:
        """Parameters of all parts."""
        return sum(part.parameters for part in self.parts.values())

    @property
    def flops(self) -> int:
        """FLOPs of all parts, forward: 2 for each multiplication and addition of a matmul."""
        return sum(part.flops for part in self.parts.values())


class _VisionSide(ImageFeaturesMixin, nn.Module):
    """The vision side alone."""

    def __init__(self, config: MGMConfig) -> None:
        super().__init__()
        self.config = config
        self.build_vision(config)


def vision_cost(config: MGMConfig) -> VisionCost:
    """Count parameters and FLOPs of a config on the meta device, by torch's `FlopCounterMode`."""
    side, side_aux = config.image_size, config.image_size_aux
    with torch.device("meta"), torch.no_grad():
        model = _VisionSide(config).eval()
        low = torch.empty(1, config.crops, 3, side, side)
        high = torch.empty(1, 3, side_aux, side_aux)
        fusion, parts = config.fusion, {}
        tokens, flops = _counted(lambda: model.low_resolution_tokens(low))
        if fusion.uses_low_resolution:
            parts["vision_tower"] = PartCost(_size(model.vision_tower), flops)
        if model.vision_tower_aux is not None and model.mining is not None:
            stages, flops = _counted(lambda: model.high_resolution_stages(high))
            parts["vision_tower_aux"] = PartCost(_size(model.vision_tower_aux), flops)
            _, flops = _counted(lambda: model.mined_tokens(tokens, stages))
            parts["mining"] = PartCost(_size(model.mining), flops)
        _, flops = _counted(lambda: model.projector(tokens))
        parts["projector"] = PartCost(_size(model.projector), flops)
    return VisionCost(parts)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _counted(call: Callable[[], Result]) -> tuple[Result, int]:
    """The result of a call, and its FLOPs."""
    with FlopCounterMode(display=False) as counter:
        result = call()
    return result, counter.get_total_flops()

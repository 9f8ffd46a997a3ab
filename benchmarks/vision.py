"""Encoders and patch info mining, at published sizes with random weights: mgm and published.

    python -m benchmarks.vision [--only mining HD ...] [--device cuda --dtype bfloat16 --images 16]

The limit is the roofline: the larger of mgm's operations at the measured FLOP/s, and the minimum of
bytes (inputs, outputs and weights, each once) at the measured bandwidth.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import (
    OURS,
    PUBLISHED,
    Case,
    Settings,
    is_selected,
    relative_difference,
    report,
    settings,
)
from benchmarks.published import clip_tokens, eager_clip, image_features, mine_views
from mgm.model.configuration_mgm import MGMConfig
from mgm.model.modeling_mgm import MGMForConditionalGeneration

CLIP = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
CONVNEXT = {"depths": [3, 3, 27, 3], "dims": [192, 384, 768, 1536]}
SMALL_CLIP = CLIP | {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 56,
}
SMALL_CONVNEXT = {"depths": [1, 1, 2, 1], "dims": [8, 16, 24, 32]}
TEXT = {
    "model_type": "llama",
    "vocab_size": 32,
    "hidden_size": 4096,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 32,
}
LAYOUTS: dict[str, dict[str, Any]] = {
    "336/768": {},
    "HD": {"image_grid": 2, "image_global": True},
}


class Subject:
    """A model with a minimal language model, and random inputs."""

    def __init__(self, layout: str, chosen: Settings) -> None:
        grid = LAYOUTS[layout].get("image_grid", 1)
        config = MGMConfig(
            text_config=TEXT,
            vision_config=SMALL_CLIP if chosen.small else CLIP,
            vision_aux_config=SMALL_CONVNEXT if chosen.small else CONVNEXT,
            image_size_aux=(128 if chosen.small else 768) * grid,
            **LAYOUTS[layout],
        )
        torch.manual_seed(0)
        model = MGMForConditionalGeneration(config).eval()
        self.model: Any = model.to(chosen.device, chosen.dtype)
        self.grid = grid
        self.compile = chosen.compile
        self.clip = eager_clip(self.model.vision_tower)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, device=chosen.device).to(chosen.dtype)

        self.low = draw(chosen.images, config.crops, 3, config.image_size, config.image_size)
        self.high = draw(chosen.images, 3, config.image_size_aux, config.image_size_aux)

    @torch.no_grad()
    def maps(self) -> tuple[Tensor, list[Tensor]]:
        """Tokens and ConvNeXt maps of the inputs."""
        stages = self.model.high_resolution_stages(self.high)
        return self.model.low_resolution_tokens(self.low), stages


def cases(chosen: Settings) -> Iterator[Case]:
    """Generate the selected cases."""
    for layout in LAYOUTS:
        makers: dict[str, Callable[[str, Subject], Case]] = {
            f"mining {layout}, forward": mining_forward,
            f"mining {layout}, forward + backward": mining_backward,
            f"CLIP {layout}": clip,
            f"ConvNeXt {layout}": convnext,
            f"get_image_features {layout}": features,
        }
        makers = {name: make for name, make in makers.items() if is_selected(name, chosen)}
        if makers:
            subject = Subject(layout, chosen)
            for name, make in makers.items():
                yield make(name, subject)


def mining_forward(name: str, subject: Subject) -> Case:
    """Upsampling and mining, without autograd."""
    tokens, stages = subject.maps()

    @torch.no_grad()
    def ours() -> Tensor:
        return subject.model.mined_tokens(tokens, stages)

    @torch.no_grad()
    def published() -> Tensor:
        return mine_views(subject.model.mining, tokens, stages, subject.grid)

    moved = _bytes(tokens, tokens, *stages, *subject.model.mining.parameters())
    return _case(name, ours, published, moved)


def mining_backward(name: str, subject: Subject) -> Case:
    """Gradients of the parameters of mining, as in training with frozen towers."""
    tokens, stages = subject.maps()
    parameters = dict(subject.model.mining.named_parameters())
    output_gradient = torch.randn_like(tokens)

    def gradients(outputs: Tensor) -> list[Tensor]:
        outputs.backward(output_gradient)
        # The gradient of the key's biases is zero but for rounding: softmax ignores constants.
        biases = ("key.bias", "key.norm.bias")
        results = [parameter.grad for name, parameter in parameters.items() if name not in biases]
        for parameter in parameters.values():
            parameter.grad = None
        return results

    def ours() -> list[Tensor]:
        return gradients(subject.model.mined_tokens(tokens, stages))

    def published() -> list[Tensor]:
        return gradients(mine_views(subject.model.mining, tokens, stages, subject.grid))

    moved = _bytes(
        tokens, output_gradient, *stages, *stages, *parameters.values(), *parameters.values()
    )
    return _case(name, ours, published, moved)


def clip(name: str, subject: Subject) -> Case:
    """The low-resolution tower on all crops."""
    tower, crops = subject.model.vision_tower, subject.low.flatten(0, 1)

    @torch.no_grad()
    def ours() -> Tensor:
        return tower(crops)

    @torch.no_grad()
    def published() -> Tensor:
        return clip_tokens(subject.clip, crops)

    return _case(name, ours, published, _bytes(crops, ours(), *tower.parameters()))


def convnext(name: str, subject: Subject) -> Case:
    """The high-resolution tower; the published one calls timm's stages in the same order.

    A third variant has weights and pixels in channels-last memory format from the start; without it
    the feature maps have that format from the first block on.
    """
    tower = subject.model.vision_tower_aux
    tower_channels_last = copy.deepcopy(tower).to(memory_format=torch.channels_last)
    pixels = subject.high.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def ours() -> list[Tensor]:
        return tower(subject.high)

    @torch.no_grad()
    def published() -> list[Tensor]:
        hidden, maps = tower.stem(subject.high), []
        for stage in tower.stages:
            hidden = stage(hidden)
            maps.append(hidden)
        return maps

    @torch.no_grad()
    def channels_last() -> list[Tensor]:
        return tower_channels_last(pixels)

    case = _case(name, ours, published, _bytes(subject.high, *ours(), *tower.parameters()))
    return replace(case, forms=case.forms | {"ours, channels last": channels_last})


def features(name: str, subject: Subject) -> Case:
    """The whole vision path, from pixels to the image tokens of the language model."""
    model = subject.model

    @torch.no_grad()
    def ours() -> Tensor:
        return model.get_image_features(subject.low, subject.high)

    @torch.no_grad()
    def published() -> Tensor:
        return image_features(model, subject.clip, subject.low, subject.high)

    parts = (model.vision_tower, model.vision_tower_aux, model.mining, model.projector)
    weights = [weight for part in parts for weight in part.parameters()]
    moved = _bytes(subject.low, subject.high, ours(), *weights)
    case = _case(name, ours, published, moved)
    if not subject.compile:
        return case
    compiled_model = copy.deepcopy(model)
    compiled_model.compile_vision()

    @torch.no_grad()
    def compiled() -> Tensor:
        return compiled_model.get_image_features(subject.low, subject.high)

    return replace(case, forms=case.forms | {"ours, compiled": compiled})


def _case(name: str, ours: Callable[[], Any], published: Callable[[], Any], min_bytes: int) -> Case:
    actual, expected = (_tensors(form()) for form in (ours, published))
    difference = relative_difference(actual, expected)
    return Case(name, {OURS: ours, PUBLISHED: published}, difference, min_bytes)


def _tensors(result: Tensor | list[Tensor]) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else result


def _bytes(*tensors: Tensor) -> int:
    return sum(tensor.nbytes for tensor in tensors)


if __name__ == "__main__":
    chosen = settings(__doc__ or "")
    report("Encoders and patch info mining", cases(chosen), chosen)

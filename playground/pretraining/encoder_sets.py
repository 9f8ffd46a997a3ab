"""The encoders of the experiments: one table of their sizes, with parameters and FLOPs computed.

python -m playground.pretraining.encoder_sets prints it.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig

from mgm.errors import MGMError, Parser, run_command
from mgm.model.vision.convnext import ConvNextTower
from mgm.model.vision.convnext_config import ConvNextTowerConfig
from mgm.model.vision.patch_info_mining import PatchInfoMining
from mgm.model.vision.projector import build_projector
from mgm.model.vision.vit import build_vision_tower
from playground.pretraining.targets import FRAME, SIDE

PATCH = 14  # pixels per side of a ViT's patch
HEAD_WIDTH = 64  # channels of an attention head
TEXT_WIDTH = 256  # of the nano language model and of the vectors that are compared with captions


@dataclass(frozen=True)
class VitSpec:
    """Sizes of a CLIP ViT.

    Attributes:
        name: of its folder.
        image_size: pixels per side; a multiple of 168, so that tokens can be pooled to 12 x 12.
        width: channels of a token.
        intermediate_size: channels inside an MLP.
        layers: layers that the model runs. One more follows, for the class token of contrastive
            pre-training: the published recipe takes the second-to-last hidden state.
    """

    tower: ClassVar[str] = "vit"
    name: str
    image_size: int
    width: int
    intermediate_size: int
    layers: int

    @property
    def tokens_per_side(self) -> int:
        """Tokens per side before pooling."""
        return self.image_size // PATCH

    @property
    def pooling(self) -> int:
        """Tokens per side that are averaged to one image token."""
        return self.tokens_per_side // SIDE

    def config(self) -> CLIPVisionConfig:
        """Its configuration in transformers."""
        return CLIPVisionConfig(
            hidden_size=self.width,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.layers + 1,
            num_attention_heads=self.width // HEAD_WIDTH,
            image_size=self.image_size,
            patch_size=PATCH,
            projection_dim=TEXT_WIDTH,
        )


@dataclass(frozen=True)
class ConvNextSpec:
    """Sizes of a ConvNeXt.

    Attributes:
        name: of its folder.
        dims: channels of each stage.
        depths: blocks of each stage.
    """

    tower: ClassVar[str] = "convnext"
    name: str
    dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int] = (1, 2, 2, 1)

    def config(self) -> ConvNextTowerConfig:
        """Its configuration, with a layer scale that small networks learn from."""
        return ConvNextTowerConfig(list(self.depths), list(self.dims), ls_init_value=0.5)


EncoderSpec = VitSpec | ConvNextSpec


@dataclass(frozen=True)
class EncoderSet:
    """The encoders of one or more arms; sets that name the same encoder share its weights.

    Attributes:
        convnext: None: the image tokens are the ViT's alone.
        arms: the arms of the experiments that use it.
    """

    name: str
    vit: VitSpec
    convnext: ConvNextSpec | None
    arms: str

    @property
    def encoders(self) -> tuple[EncoderSpec, ...]:
        """The ViT, and the ConvNeXt if there is one."""
        return (self.vit,) if self.convnext is None else (self.vit, self.convnext)


VIT = VitSpec("clip-vit-nano-patch14-168", 168, 256, 512, 2)
CONVNEXT = ConvNextSpec("convnext-nano-384", (24, 48, 128, 256))
# The FLOPs of the base set, with mining and projector, in one ViT.
LARGE_VIT = VitSpec("clip-vit-nano-large-patch14-168", 168, 320, 640, 5)
FINE_VIT = VitSpec("clip-vit-nano-patch14-336", 336, 192, 448, 2)
# Half and twice the FLOPs of the base set's ConvNeXt.
HALF_CONVNEXT = ConvNextSpec("convnext-nano-half-384", (16, 32, 88, 192))
DOUBLE_CONVNEXT = ConvNextSpec("convnext-nano-double-384", (32, 72, 184, 368))

ENCODER_SETS = (
    EncoderSet("base", VIT, CONVNEXT, "A1-A7, A9, A10, A12, A13"),
    EncoderSet("large-vit", LARGE_VIT, None, "A0"),
    EncoderSet("fine-vit", FINE_VIT, None, "A8"),
    EncoderSet("half-convnext", VIT, HALF_CONVNEXT, "A11"),
    EncoderSet("double-convnext", VIT, DOUBLE_CONVNEXT, "A11"),
)


def encoder_set(name: str) -> EncoderSet:
    """The set of this name.

    Raises:
        MGMError: there is none.
    """
    for candidate in ENCODER_SETS:
        if candidate.name == name:
            return candidate
    names = ", ".join(candidate.name for candidate in ENCODER_SETS)
    raise MGMError(f"{name!r} is no encoder set; choose among {names}")


@dataclass(frozen=True)
class Cost:
    """Parameters that take part in the forward pass, and its FLOPs for one image."""

    parameters: int
    flops: int


def vision_costs(encoders: EncoderSet) -> dict[str, Cost]:
    """The costs of the vision side's parts: the encoders, mining where there is a ConvNeXt, and
    the projector. FLOPs are counted while the modules run on the meta device."""
    vit, convnext = encoders.vit, encoders.convnext
    with torch.device("meta"), torch.no_grad():
        tower = build_vision_tower(vit.config())
        tokens, cost = _run(tower, torch.empty(1, 3, vit.image_size, vit.image_size))
        unused = sum(p.numel() for layer in tower.layers[vit.layers :] for p in layer.parameters())
        costs = {"vit": Cost(cost.parameters - unused, cost.flops)}
        tokens = tokens[:, : SIDE**2]  # pooled; their mean costs next to nothing
        if convnext is not None:
            maps, costs["convnext"] = _run(
                ConvNextTower(convnext.config()), torch.empty(1, 3, FRAME, FRAME)
            )
            _, costs["mining"] = _run(PatchInfoMining(vit.width, convnext.dims), tokens, maps)
        projector = build_projector("mlp2x_gelu", vit.width, TEXT_WIDTH)
        _, costs["projector"] = _run(projector, tokens)
    return costs


def _run(module: nn.Module, *inputs: object) -> tuple[Any, Cost]:
    with FlopCounterMode(display=False) as counter:
        output = module(*inputs)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return output, Cost(parameters, counter.get_total_flops())


def table() -> str:
    """Markdown: a row for each set, with the costs of its parts."""
    parts = ("vit", "convnext", "mining", "projector", "sum")
    lines = [
        f"| set | arms | {' | '.join(parts)} |",
        "|---|---|" + "---:|" * len(parts),
    ]
    for encoders in ENCODER_SETS:
        costs = vision_costs(encoders)
        costs["sum"] = Cost(
            sum(cost.parameters for cost in costs.values()),
            sum(cost.flops for cost in costs.values()),
        )
        cells = [
            f"{costs[part].parameters / 1e6:.2f} M, {costs[part].flops / 1e9:.2f} GFLOPs"
            if part in costs
            else "-"
            for part in parts
        ]
        lines.append(f"| {encoders.name} | {encoders.arms} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    Parser(
        prog="python -m playground.pretraining.encoder_sets", description=__doc__.splitlines()[0]
    ).parse_args()
    print(table())


if __name__ == "__main__":
    run_command(main)

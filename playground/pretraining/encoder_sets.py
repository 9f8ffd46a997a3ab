"""Encoder sets of the experiments, with computed numbers of parameters and FLOPs.

python -m playground.pretraining.encoder_sets prints them as a table.
"""

from dataclasses import dataclass
from typing import ClassVar

from transformers import CLIPVisionConfig, LlamaConfig

from mgm.errors import MGMError, Parser, run_command
from mgm.model.configuration_mgm import MGMConfig
from mgm.model.vision.convnext_config import ConvNextTowerConfig
from mgm.model.vision.fusion.fusion_config import NONE, FusionConfig
from mgm.train.estimate.vision_cost import PartCost, vision_cost
from playground.pretraining.targets import FRAME, SIDE

PATCH = 14  # pixels per side of a ViT's patch
HEAD_WIDTH = 64  # channels of an attention head
PARTS = {
    "vision_tower": "ViT",
    "vision_tower_aux": "ConvNeXt",
    "mining": "mining",
    "projector": "projector",
}
TEXT_WIDTH = 256  # hidden size of the nano language model and of the caption embeddings


@dataclass(frozen=True)
class VitSpec:
    """Sizes of a CLIP ViT.

    Attributes:
        name: name of its folder.
        image_size: pixels per side; a multiple of 168, so that tokens can be pooled to 12 x 12.
        width: hidden size.
        intermediate_size: hidden size of an MLP.
        layers: number of layers that the MGM model uses. One more layer exists for the class token
            of contrastive pre-training: the published recipe uses the second-to-last hidden state.
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
        """Tokens per side that are average-pooled to one image token."""
        return self.tokens_per_side // SIDE

    def config(self) -> CLIPVisionConfig:
        """Its configuration for transformers."""
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
        name: name of its folder.
        dims: channels of each stage.
        depths: blocks of each stage.
    """

    tower: ClassVar[str] = "convnext"
    name: str
    dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int] = (1, 2, 2, 1)

    def config(self) -> ConvNextTowerConfig:
        """Its configuration, with an initial layer scale suited to small networks."""
        return ConvNextTowerConfig(list(self.depths), list(self.dims), ls_init_value=0.5)


EncoderSpec = VitSpec | ConvNextSpec


@dataclass(frozen=True)
class EncoderSet:
    """The encoders of one or more arms; sets with the same encoder share its weights.

    Attributes:
        vit: low-resolution encoder.
        convnext: high-resolution encoder; None: image tokens come from the ViT only.
        arms: arms of the experiments that use the set.
    """

    name: str
    vit: VitSpec
    convnext: ConvNextSpec | None
    arms: str

    @property
    def encoders(self) -> tuple[EncoderSpec, ...]:
        """The ViT and the ConvNeXt, if any."""
        return (self.vit,) if self.convnext is None else (self.vit, self.convnext)


VIT = VitSpec("clip-vit-nano-patch14-168", 168, 256, 512, 2)
CONVNEXT = ConvNextSpec("convnext-nano-384", (24, 48, 128, 256))
# A ViT with the FLOPs of the whole base set, mining and projector included.
LARGE_VIT = VitSpec("clip-vit-nano-large-patch14-168", 168, 320, 640, 5)
FINE_VIT = VitSpec("clip-vit-nano-patch14-336", 336, 192, 448, 2)
# ConvNeXts with half and twice the FLOPs of that of the base set.
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
    """Get an encoder set by name.

    Raises:
        MGMError: the name is unknown.
    """
    for candidate in ENCODER_SETS:
        if candidate.name == name:
            return candidate
    names = ", ".join(candidate.name for candidate in ENCODER_SETS)
    raise MGMError(f"{name!r} is no encoder set; choose among {names}")


def model_config(encoders: EncoderSet) -> MGMConfig:
    """Configuration of a model with these encoders and a nano language model.

    It has patch info mining, or without a ConvNeXt the ViT's tokens, pooled to 12 x 12.
    """
    vit, convnext = encoders.vit, encoders.convnext
    alone = FusionConfig(mode=NONE, token_pooling=vit.pooling)
    return MGMConfig(
        text_config=LlamaConfig(hidden_size=TEXT_WIDTH),
        vision_config=vit.config(),
        vision_aux_config=None if convnext is None else convnext.config(),
        image_size_aux=FRAME,
        fusion=alone if convnext is None else None,
    )


def table() -> str:
    """Format a Markdown table of all sets: parameters and FLOPs per image of each component."""
    lines = [f"| set | arms | {' | '.join(PARTS.values())} | sum |", "|---|---" + "|---:" * 5 + "|"]
    for encoders in ENCODER_SETS:
        cost = vision_cost(model_config(encoders))
        cells = [_cell(cost.parts[part]) if part in cost.parts else "" for part in PARTS]
        cells.append(_cell(PartCost(cost.parameters, cost.flops)))
        lines.append(f"| {encoders.name} | {encoders.arms} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(cost: PartCost) -> str:
    return f"{cost.parameters / 1e6:.2f} M, {cost.flops / 1e9:.2f} GFLOPs"


def main() -> None:
    """Print the table."""
    Parser(
        prog="python -m playground.pretraining.encoder_sets", description=__doc__.splitlines()[0]
    ).parse_args()
    print(table())


if __name__ == "__main__":
    run_command(main)

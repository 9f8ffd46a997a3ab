"""Encoders for pre-training: images to feature grids; weights in the layouts of the releases."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPVisionModel

from mgm.atomic import atomic_folder
from mgm.data.image_processing_mgm import CLIP_MEAN, CLIP_STD
from mgm.model.vision.convnext import (
    OPENCLIP_CONFIG,
    OPENCLIP_PREFIX,
    ConvNextTower,
    load_convnext_tower,
)
from playground.pretraining.encoder_sets import TEXT_WIDTH, ConvNextSpec, EncoderSpec, VitSpec
from playground.pretraining.targets import FRAME, SIDE


@dataclass(frozen=True)
class Features:
    """Output of an encoder for a batch of images.

    Attributes:
        grids: feature grids (images, side, side, channels) by cells per side.
        summary: image embeddings (images, channels).
    """

    grids: dict[int, Tensor]
    summary: Tensor


class VitEncoder(nn.Module):
    """A CLIP ViT with its second-to-last hidden states, average-pooled to 12 x 12 tokens.

    Attributes:
        widths: channels of each grid, by its cells per side.
    """

    def __init__(self, spec: VitSpec) -> None:
        super().__init__()
        self.spec = spec
        self.widths = dict.fromkeys((spec.tokens_per_side, SIDE), spec.width)
        self.network = CLIPVisionModel(spec.config())
        self.network.set_attn_implementation("eager")  # faster than sdpa in bfloat16 on a CPU

    def forward(self, images: Tensor) -> Features:
        """Encode normalised images (images, 3, 384, 384), downsampled as in `ImageViews`."""
        side, pooling = self.spec.tokens_per_side, self.spec.pooling
        small = F.interpolate(images, size=self.spec.image_size, mode="bilinear")
        output = self.network(small, output_hidden_states=True)
        tokens = output.hidden_states[-2][:, 1:].unflatten(1, (side, side))
        blocks = tokens.unflatten(2, (SIDE, pooling)).unflatten(1, (SIDE, pooling))
        return Features({side: tokens, SIDE: blocks.mean((2, 4))}, output.pooler_output)

    def save(self, folder: Path) -> None:
        """Write the weights in the layout of transformers' CLIP."""
        size = self.spec.image_size
        config = {
            "image_processor_type": "CLIPImageProcessor",
            "crop_size": {"height": size, "width": size},
            "size": {"shortest_edge": size},
            "image_mean": CLIP_MEAN,
            "image_std": CLIP_STD,
            "resample": 3,
        }
        with atomic_folder(folder) as part:
            self.network.save_pretrained(part)
            (part / "preprocessor_config.json").write_text(json.dumps(config, indent=2) + "\n")

    def load(self, folder: Path) -> None:
        """Load the weights that `save` wrote."""
        self.network.load_state_dict(CLIPVisionModel.from_pretrained(folder).state_dict())


class ConvNextEncoder(nn.Module):
    """A ConvNeXt with its maps of 24 x 24 and 12 x 12 positions.

    Attributes:
        widths: channels of each grid, by its cells per side.
    """

    def __init__(self, spec: ConvNextSpec) -> None:
        super().__init__()
        self.spec = spec
        self.widths = {2 * SIDE: spec.dims[2], SIDE: spec.dims[3]}
        self.network = ConvNextTower(spec.config()).to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Features:
        """Encode normalised images (images, 3, 384, 384)."""
        maps = self.network(images.contiguous(memory_format=torch.channels_last))
        grids = {len(grid[0, 0]): grid.permute(0, 2, 3, 1) for grid in maps[2:]}
        return Features(grids, grids[SIDE].mean((1, 2)))

    def save(self, folder: Path) -> None:
        """Write the weights in the layout of OpenCLIP."""
        config = {
            "model_cfg": {
                "embed_dim": TEXT_WIDTH,
                "vision_cfg": {"timm_model_name": "convnext_nano_mgm", "image_size": FRAME},
            },
            "preprocess_cfg": {"mean": CLIP_MEAN, "std": CLIP_STD},
        }
        state = {
            OPENCLIP_PREFIX + name: tensor.contiguous()
            for name, tensor in self.network.state_dict().items()
        }
        with atomic_folder(folder) as part:
            (part / OPENCLIP_CONFIG).write_text(json.dumps(config, indent=2) + "\n")
            save_file(state, part / "open_clip_model.safetensors", metadata={"format": "pt"})

    def load(self, folder: Path) -> None:
        """Load the weights that `save` wrote."""
        self.network.load_state_dict(load_convnext_tower(folder).state_dict())


Encoder = VitEncoder | ConvNextEncoder


def build_encoder(spec: EncoderSpec) -> Encoder:
    """Build an encoder of these sizes with random weights."""
    return VitEncoder(spec) if isinstance(spec, VitSpec) else ConvNextEncoder(spec)

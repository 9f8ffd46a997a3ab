"""The published vision path, for comparison: CLIP, mining and projector as in released code.

Source: clip_encoder.py, openclip_encoder.py, and encode_images of mgm_arch.py.
"""

import copy
import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPVisionModel

from benchmarks.reference_mining import concatenated_map, published_mining
from mgm.data.processing_mgm import MGMProcessor
from mgm.data.text.stop_criteria import sync_generation_config
from mgm.engine.device import choose_device, choose_dtype
from mgm.engine.engine import Engine
from mgm.model.loading import load_model
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.model.ops.attention import set_attention
from mgm.model.vision.patch_info_mining import PatchInfoMining
from mgm.model.vision.vit import VisionTower


def eager_engine(path: str | os.PathLike[str], device: str | None = None) -> Engine:
    """An engine with eager attention and torch's linear layers, without mgm's optimisations."""
    chosen = choose_device(device)
    model = load_model(path, choose_dtype(None, chosen), chosen)
    set_attention(model, "eager")
    processor = MGMProcessor.from_pretrained(path)
    sync_generation_config(model.generation_config, processor.tokenizer, processor.template)
    return Engine(model, processor)


def eager_clip(tower: VisionTower) -> CLIPVisionModel:
    """transformers' CLIP with all layers and eager attention, and the weights of `tower`."""
    config: Any = copy.deepcopy(tower.config)
    with torch.device("meta"):
        clip = CLIPVisionModel(config)
    clip.set_attn_implementation("eager")
    clip.load_state_dict(tower.state_dict(), assign=True)
    for name, buffer in tower.named_buffers():  # position ids, which are not persistent
        owner, _, last = name.rpartition(".")
        setattr(clip.get_submodule(owner), last, buffer)
    return clip.eval()


def clip_tokens(clip: CLIPVisionModel, pixels: Tensor) -> Tensor:
    """Tokens (crops, tokens, width) of the second-to-last layer; runs all layers, as published."""
    states = clip(pixels, output_hidden_states=True).hidden_states
    return states[-2][:, 1:]


def mine_views(
    mining: PatchInfoMining, tokens: Tensor, stages: Sequence[Tensor], grid: int
) -> Tensor:
    """Upsample, concatenate and mine.

    Args:
        mining: module with the parameters.
        tokens: (images, crops, N, C): grid cells in row-major order, then the global view, if any.
        stages: feature maps of the ConvNeXt's stages.
        grid: number of grid cells per side.
    """
    full = concatenated_map(stages)
    if grid == 1:
        return published_mining(mining, tokens[:, 0], full).unsqueeze(1)
    whole = F.interpolate(full.float(), scale_factor=1 / grid, mode="bilinear").to(full.dtype)
    cells = full.unflatten(3, (grid, -1)).unflatten(2, (grid, -1)).permute(0, 2, 4, 1, 3, 5)
    cells = published_mining(mining, tokens[:, :-1].flatten(0, 1), cells.flatten(0, 2))
    global_view = published_mining(mining, tokens[:, -1], whole).unsqueeze(1)
    return torch.cat([cells.unflatten(0, (len(tokens), -1)), global_view], dim=1)


def image_features(
    model: MGMForConditionalGeneration, clip: CLIPVisionModel, low: Tensor, high: Tensor
) -> Tensor:
    """Input embeddings (images, image tokens, text width) for the language model."""
    grid = math.isqrt(low.shape[1])  # the global view is an additional crop
    tower, mining = model.vision_tower_aux, model.mining
    assert tower is not None
    assert isinstance(mining, PatchInfoMining)
    tokens = clip_tokens(clip, low.flatten(0, 1)).unflatten(0, low.shape[:2])
    both = tokens + mine_views(mining, tokens, tower(high), grid)
    if grid > 1:
        both = torch.cat([both[:, -1:], both[:, :-1]], dim=1)
    return model.projector(both.flatten(1, 2))

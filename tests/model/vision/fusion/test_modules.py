"""What every fusion module does alike: crops, shifted windows, precision, gradients."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.reference_mining import concatenated_map, published_attention, published_mining
from mgm.model.vision.fusion.fusion_config import FusionConfig
from mgm.model.vision.fusion.fusion_sizes import FusionSizes
from mgm.model.vision.fusion.modules import FUSION_MODES, NONE, RIVALS, over_crops
from mgm.model.vision.patch_info_mining import TILE_ELEMENTS, PatchInfoMining
from tests.model.inputs import difference
from tests.model.tiny import tiny_config
from tests.model.vision.maps import (
    LAYOUTS,
    POWERS,
    sizes_of,
    stages_of,
    stirred,
    stirred_mining,
)


def module_of(mode: str) -> nn.Module:
    sizes = sizes_of("nano", 16)
    if mode == "mining":
        return PatchInfoMining(16, sizes.stage_widths)
    return RIVALS[mode](sizes)


WITH_MODULE = tuple(mode for mode in FUSION_MODES if mode != NONE)


@pytest.mark.parametrize("tile", [1, TILE_ELEMENTS])
@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_a_shift_equals_the_published_form_on_rolled_maps(layout, tile, monkeypatch) -> None:
    monkeypatch.setattr("mgm.model.vision.patch_info_mining.TILE_ELEMENTS", tile)
    torch.manual_seed(0)
    grid, side, factors = LAYOUTS[layout]
    config = tiny_config()
    monkeypatch.setattr(type(config), "tokens_per_side", grid)
    mining, stages = stirred_mining(16, torch.float64), stages_of(side, factors, torch.float64)
    tokens, full = torch.randn(2, grid**2, 16, dtype=torch.float64), concatenated_map(stages)
    for shift in range(grid):
        rolled = full.roll(shift * (side // grid), -1)
        ours = over_crops(mining, tokens.unsqueeze(1), stages, config, shift).squeeze(1)
        assert difference(ours, published_mining(mining, tokens, rolled)) < 1e-9
        ours = over_crops(mining.attention, tokens.unsqueeze(1), stages, config, shift).squeeze(1)
        assert difference(ours, published_attention(mining, tokens, rolled)) < 1e-9


@pytest.mark.parametrize("mode", WITH_MODULE)
def test_bfloat16_and_autocast_stay_close(mode: str) -> None:
    torch.manual_seed(0)
    module = stirred(module_of(mode), torch.float32)
    tokens, stages = torch.randn(2, 64, 16), stages_of(64, POWERS, torch.float32)
    exact = module(tokens, stages)
    assert exact.shape == tokens.shape
    with torch.autocast("cpu", torch.bfloat16):
        ours = module(tokens, [stage.bfloat16() for stage in stages])
    assert ours.dtype == tokens.dtype
    assert difference(ours, exact) < 0.03
    half = module.bfloat16()(tokens.bfloat16(), [stage.bfloat16() for stage in stages])
    assert half.dtype == torch.bfloat16
    assert difference(half, exact) < 0.04


@pytest.mark.parametrize("mode", WITH_MODULE)
def test_every_parameter_gets_a_gradient(mode: str) -> None:
    module = stirred(module_of(mode), torch.float32)
    module(torch.randn(2, 64, 16), stages_of(64, POWERS, torch.float32)).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.parametrize("mode", WITH_MODULE)
@torch.no_grad()
def test_one_image_does_not_change_another(mode: str) -> None:
    torch.manual_seed(0)
    module = stirred(module_of(mode))
    tokens = torch.randn(2, 64, 16, dtype=torch.float64)
    stages = stages_of(64, POWERS, torch.float64)
    alone = module(tokens[:1], [stage[:1] for stage in stages])
    assert difference(module(tokens, stages)[:1], alone) < 1e-9


@pytest.mark.parametrize("mode", ["mining", "one_query", "pool"])
@torch.no_grad()
def test_attention_weights_are_those_of_the_output(mode: str) -> None:
    torch.manual_seed(0)
    module = stirred(module_of(mode))
    tokens = torch.randn(2, 64, 16, dtype=torch.float64)
    full = concatenated_map(stages := stages_of(64, POWERS, torch.float64))
    weights = module.attention(tokens, stages)
    side = math.isqrt(weights.shape[-1])
    blocks = full.unflatten(3, (8, side)).unflatten(2, (8, side)).permute(0, 2, 4, 3, 5, 1)
    positions = blocks.flatten(3, 4).flatten(1, 2)  # (B, N, P, H)
    normal = F.layer_norm(positions, positions.shape[-1:])
    expected = module.value((weights.unsqueeze(2) @ normal).squeeze(2))
    assert difference(module(tokens, stages), expected) < 1e-9


def test_the_modes_of_the_config_are_those_of_the_table() -> None:
    assert ("mining", *RIVALS, "none") == FUSION_MODES
    for mode in FUSION_MODES:
        assert FusionConfig(mode=mode).mode == mode


def test_the_example_of_the_documentation_is_a_module() -> None:
    text = (Path(__file__).resolve().parents[4] / "docs/fusion.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(class .*?)```", text, re.DOTALL)[1]
    names = {"F": F, "FusionSizes": FusionSizes, "Sequence": Sequence, "Tensor": Tensor}
    names |= {"math": math, "nn": nn, "torch": torch}
    exec(code, names)
    module = names["MaxPooling"](sizes_of("nano", 16))
    tokens, stages = torch.randn(2, 64, 16), stages_of(64, POWERS, torch.float32)
    largest = torch.cat([F.max_pool2d(stage, stage.shape[-1] // 8) for stage in stages], dim=1)
    expected = module.project(largest.permute(0, 2, 3, 1)).flatten(1, 2)
    torch.testing.assert_close(module(tokens, stages), expected)

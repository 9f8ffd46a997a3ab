"""Channel concatenation, against a loop over windows and one whole matrix."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mgm.model.vision.fusion.concat import Concatenation
from mgm.model.vision.fusion.fusion_sizes import FusionSizes
from mgm.model.vision.patch_info_mining import PatchInfoMining, downscaled
from tests.model.inputs import difference
from tests.model.vision.maps import LAYOUTS, POWERS, sizes_of, stages_of, stirred


def looped(module: Concatenation, tokens: Tensor, stages: list[Tensor], grid: int) -> Tensor:
    """Window by window: the positions' channels one after the other, each channel's positions."""
    rows = []
    for index in range(grid**2):
        row, column = divmod(index, grid)
        parts = []
        for stage in stages:
            size = stage.shape[-1] // grid
            window = stage[:, :, row * size :, column * size :][:, :, :size, :size]
            parts.append(window.flatten(1))
        depth = torch.cat(parts, dim=1)
        normal = F.layer_norm(depth, depth.shape[1:], module.norm.weight, module.norm.bias)
        of_tokens, of_maps = module.mix.weight.split([16, module.reduce.out_features], dim=1)
        whole = of_maps @ module.reduce.weight  # (C, D)
        rows.append(tokens[:, index] @ of_tokens.T + normal @ whole.T + module.mix.bias)
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("layout", ["nano", "one window", "few positions"])
def test_it_is_one_matrix_over_token_and_window(layout: str) -> None:
    torch.manual_seed(0)
    grid, side, factors = LAYOUTS[layout]
    module = stirred(Concatenation(sizes_of(layout, 16)))
    stages = stages_of(side, factors, torch.float64)
    tokens = torch.randn(2, grid**2, 16, dtype=torch.float64, requires_grad=True)
    positions = [
        s if s.shape[-1] >= grid else F.interpolate(s, grid, mode="bilinear") for s in stages
    ]
    ours, theirs = module(tokens, stages), looped(module, tokens, positions, grid)
    assert difference(ours, theirs) < 1e-9
    direction, inputs = torch.randn_like(ours), [tokens, *stages, *module.parameters()]
    for mine, expected in zip(
        torch.autograd.grad(ours, inputs, direction),
        torch.autograd.grad(theirs, inputs, direction),
        strict=True,
    ):
        assert difference(mine, expected) < 1e-9


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_maps_of_any_size_are_resized_to_the_windows(layout: str) -> None:
    torch.manual_seed(0)
    grid, side, factors = LAYOUTS[layout]
    module = stirred(Concatenation(sizes_of(layout, 16)))
    tokens = torch.randn(2, grid**2, 16, dtype=torch.float64)
    stages = stages_of(side, factors, torch.float64)
    sides = [grid * window for window in module.windows]
    resized = [F.interpolate(s, n, mode="bilinear") for s, n in zip(stages, sides, strict=True)]
    assert difference(module(tokens, stages), looped(module, tokens, resized, grid)) < 1e-9


@torch.no_grad()
def test_the_global_view_has_maps_of_its_own_resolution() -> None:
    """`downscaled` leaves coarse maps as they are; here each is needed at half its side."""
    torch.manual_seed(0)
    module = stirred(Concatenation(FusionSizes(16, (4, 8, 12, 16), (8, 4, 2, 1))))
    stages = stages_of(64, POWERS, torch.float64)
    tokens = torch.randn(2, 16, 16, dtype=torch.float64)
    small = downscaled(stages, 2)
    sides = [32 // power for power in POWERS]
    halves = [F.interpolate(s, n, mode="bilinear") for s, n in zip(small, sides, strict=True)]
    assert difference(module(tokens, small), looped(module, tokens, halves, 4)) < 1e-9


@pytest.mark.parametrize(
    "sizes",
    [
        FusionSizes(1024, (192, 384, 768, 1536), (8, 4, 2, 1)),  # as released
        FusionSizes(256, (24, 48, 128, 256), (8, 4, 2, 1)),  # nano
        FusionSizes(256, (24, 48, 128, 256), (16, 8, 4, 2)),  # nano, pooled tokens
    ],
)
def test_it_has_as_many_parameters_as_mining(sizes: FusionSizes) -> None:
    with torch.device("meta"):
        modules = Concatenation(sizes), PatchInfoMining(sizes.width, sizes.stage_widths)
    ours, mining = (sum(p.numel() for p in m.parameters() if p.ndim > 1) for m in modules)
    assert ours == pytest.approx(mining, rel=0.02)

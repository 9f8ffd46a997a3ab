"""The mean of each window, against means of projected positions of the upsampled map."""

import pytest
import torch
from torch.nn import functional as F

from benchmarks.reference_mining import _normed_linear, concatenated_map
from mgm.model.vision.fusion.pool import WindowPooling
from mgm.model.vision.patch_info_mining import TILE_ELEMENTS
from tests.model.inputs import difference
from tests.model.vision.maps import LAYOUTS, sizes_of, stages_of, stirred, stirred_mining


@pytest.mark.parametrize("tile", [1, TILE_ELEMENTS])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_is_the_mean_of_the_windows_projected_positions(layout, tile, monkeypatch) -> None:
    monkeypatch.setattr("mgm.model.vision.patch_info_mining.TILE_ELEMENTS", tile)
    torch.manual_seed(0)
    grid, side, factors = LAYOUTS[layout]
    pool, stages = (
        stirred(WindowPooling(sizes_of(layout, 16))),
        stages_of(side, factors, torch.float64),
    )
    tokens = torch.randn(2, grid**2, 16, dtype=torch.float64)
    values = _normed_linear(pool.value, concatenated_map(stages).permute(0, 2, 3, 1))
    expected = F.avg_pool2d(values.permute(0, 3, 1, 2), side // grid).flatten(2).transpose(1, 2)
    ours = pool(tokens, stages)
    assert difference(ours, expected) < 1e-9
    direction, inputs = torch.randn_like(ours), [*stages, *pool.parameters()]
    for mine, theirs in zip(
        torch.autograd.grad(ours, inputs, direction),
        torch.autograd.grad(expected, inputs, direction),
        strict=True,
    ):
        assert difference(mine, theirs) < 1e-9
    weights = pool.attention(tokens, [stage.detach() for stage in stages])
    torch.testing.assert_close(weights, torch.full_like(weights, (grid / side) ** 2))


@torch.no_grad()
def test_an_ablation_has_the_projection_of_mining() -> None:
    mining = stirred_mining(16, torch.float64)
    pool = WindowPooling(sizes_of("nano", 16), mining)
    assert [name for name, _ in pool.named_parameters()] == [
        f"value.{name}" for name, _ in mining.value.named_parameters()
    ]
    assert pool.value is mining.value

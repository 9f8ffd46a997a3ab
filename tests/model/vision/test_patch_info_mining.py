import copy
import math

import pytest
import torch
from torch.nn import functional as F

from benchmarks.reference_mining import (
    concatenated_map,
    published_attention,
    published_mining,
)
from mgm.model.vision.patch_info_mining import TILE_ELEMENTS, downscaled, tiles
from tests.model.inputs import difference
from tests.model.vision.maps import LAYOUTS, POWERS, stages_of, stirred_mining

ROUNDING_ONLY = {"key.bias", "key.norm.bias"}


def compare(ours, theirs, mining, tokens, stages, tolerance: float) -> None:
    """Compare outputs, and gradients of every input and parameter."""
    assert difference(ours, theirs) < tolerance
    names = ["tokens", *(f"stage {n}" for n in range(4)), *dict(mining.named_parameters())]
    inputs = [tokens, *stages, *mining.parameters()]
    direction = torch.randn_like(ours)
    of_ours = torch.autograd.grad(ours, inputs, direction)
    of_theirs = torch.autograd.grad(theirs, inputs, direction)
    for name, mine, published in zip(names, of_ours, of_theirs, strict=True):
        if name in ROUNDING_ONLY:
            assert mine.norm() < 10 * tolerance
        else:
            assert difference(mine, published) < tolerance, name


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_attention_equals_published(layout: str) -> None:
    torch.manual_seed(0)
    grid, side, factors = LAYOUTS[layout]
    mining = stirred_mining(24, torch.float32)
    tokens, stages = torch.randn(2, grid**2, 24), stages_of(side, factors, torch.float32)
    ours = mining.attention(tokens, stages)
    torch.testing.assert_close(ours.sum(-1), torch.ones(2, grid**2))
    theirs = published_attention(mining, tokens, concatenated_map(stages))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_published(layout: str, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    grid, side, factors = LAYOUTS[layout]
    mining, stages = stirred_mining(16, dtype), stages_of(side, factors, dtype)
    tokens = torch.randn(2, grid * grid, 16, dtype=dtype, requires_grad=True)
    ours = mining(tokens, stages)
    theirs = published_mining(mining, tokens, concatenated_map(stages))
    compare(ours, theirs, mining, tokens, stages, tolerance)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_tiles_of_window_rows(layout: str, rows: int, monkeypatch) -> None:
    torch.manual_seed(0)
    grid, side, factors = LAYOUTS[layout]
    mining, stages = stirred_mining(16, torch.float64), stages_of(side, factors, torch.float64)
    frozen = [stage.detach() for stage in stages]
    tokens = torch.randn(2, grid * grid, 16, dtype=torch.float64, requires_grad=True)
    numbers = sum(stage[0].numel() for stage in frozen) // grid
    monkeypatch.setattr("mgm.model.vision.patch_info_mining.TILE_ELEMENTS", rows * numbers)
    if layout in ("nano", "one window"):
        assert len(list(tiles(frozen, grid))) == 2 * math.ceil(grid / rows)
    ours = mining(tokens, frozen)
    theirs = published_mining(mining, tokens, concatenated_map(stages))
    assert difference(ours, theirs) < 1e-9
    direction = torch.randn_like(ours)
    inputs = [tokens, *mining.parameters()]
    of_ours = torch.autograd.grad(ours, inputs, direction)
    for mine, published in zip(
        of_ours, torch.autograd.grad(theirs, inputs, direction), strict=True
    ):
        assert (mine - published).norm() < 1e-8 * max(1.0, published.norm())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
@pytest.mark.parametrize(("factor", "factors"), [(2, POWERS), (3, (1, 2, 6, 12)), (4, POWERS)])
def test_global_view_equals_the_downscaled_map(factor, factors, dtype, tolerance) -> None:
    torch.manual_seed(0)
    side = 48
    mining, stages = stirred_mining(16, dtype), stages_of(side, factors, dtype)
    tokens = torch.randn(2, 16, 16, dtype=dtype, requires_grad=True)
    small = F.interpolate(concatenated_map(stages), scale_factor=1 / factor, mode="bilinear")
    ours = mining(tokens, downscaled(stages, factor))
    compare(ours, published_mining(mining, tokens, small), mining, tokens, stages, tolerance)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("band", [1, TILE_ELEMENTS])
@torch.no_grad()
def test_nan_stays_in_its_windows(layout, band, value, monkeypatch) -> None:
    monkeypatch.setattr("mgm.model.vision.patch_info_mining.TILE_ELEMENTS", band)
    torch.manual_seed(0)
    grid, side, factors = LAYOUTS[layout]
    mining = stirred_mining(16, torch.float32)
    tokens = torch.randn(2, grid * grid, 16)
    for stage in range(4):
        for _ in range(4):
            stages = stages_of(side, factors, torch.float32)
            row, column = torch.randint(side // factors[stage], (2,)).tolist()
            stages[stage][1, 2, row, column] = value
            ours = mining(tokens, stages)
            theirs = published_mining(mining, tokens, concatenated_map(stages))
            assert torch.equal(ours.isnan(), theirs.isnan())
            assert 0 < ours[1].isnan().all(-1).sum() == ours.isnan().any(-1).sum()
            fine = ~theirs.isnan()
            assert difference(ours[fine], theirs[fine]) < 1e-5
            tokens[0, 0, 0] = value  # NaN in a token affects only that token
            assert mining(tokens, stages).isnan()[0].any(-1).nonzero().tolist() == [[0]]
            tokens[0, 0, 0] = 1.0


@pytest.mark.parametrize(("factor", "factors"), [(2, POWERS), (3, (1, 2, 6, 12)), (4, POWERS)])
@torch.no_grad()
def test_nan_stays_in_its_windows_of_the_global_view(factor, factors) -> None:
    torch.manual_seed(0)
    side = 48
    mining, tokens = stirred_mining(16, torch.float32), torch.randn(2, 16, 16)
    for stage in range(4):
        for _ in range(6):
            stages = stages_of(side, factors, torch.float32)
            row, column = torch.randint(side // factors[stage], (2,)).tolist()
            stages[stage][1, 2, row, column] = float("nan")
            small = F.interpolate(
                concatenated_map(stages), scale_factor=1 / factor, mode="bilinear"
            )
            theirs = published_mining(mining, tokens, small)
            assert torch.equal(mining(tokens, downscaled(stages, factor)).isnan(), theirs.isnan())


@pytest.mark.parametrize(
    ("scale", "offset"),
    [(1e4, 0), (1e-6, 0), (1e-3, 1e4), (0, 3), (0, 0), (1e15, 0)],
    ids=["large", "tiny variance", "large and nearly constant", "constant", "zero", "enormous"],
)
@pytest.mark.parametrize("layout", ["nano", "odd factors"])
def test_extreme_values(layout: str, scale: float, offset: float) -> None:
    """Equal in float64; in float32 with an error no larger than published."""
    torch.manual_seed(0)
    grid, side, factors = LAYOUTS[layout]
    mining = stirred_mining(16, torch.float64)
    stages = [stage.detach() * scale + offset for stage in stages_of(side, factors, torch.float32)]
    stages = [stage.double() for stage in stages]  # values in float32
    tokens = torch.randn(2, grid * grid, 16, dtype=torch.float64)
    exact = published_mining(mining, tokens, concatenated_map(stages))
    assert difference(mining(tokens, stages), exact) < 1e-9 * max(1, offset)
    single = mining.float()
    stages = [stage.float() for stage in stages]
    theirs = published_mining(single, tokens.float(), concatenated_map(stages))
    ours = single(tokens.float(), stages)
    assert difference(ours, exact) < 1e-5 + 1.5 * difference(theirs, exact)


@pytest.mark.slow
def test_gradcheck() -> None:
    torch.manual_seed(0)
    mining = stirred_mining(6, torch.float64)
    stages = [stage.detach()[:1].requires_grad_() for stage in stages_of(8, POWERS, torch.float64)]
    tokens = torch.randn(1, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda tokens, *stages: mining(tokens, stages), (tokens, *stages), atol=1e-6
    )
    assert torch.autograd.gradcheck(
        lambda tokens, *stages: mining(tokens, downscaled(stages, 2)), (tokens, *stages), atol=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_error_is_at_most_published(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    mining, stages = stirred_mining(16, torch.float32), stages_of(64, POWERS, torch.float32)
    tokens = torch.randn(2, 64, 16)
    mining = mining.to(dtype)
    tokens, stages = tokens.to(dtype), [stage.to(dtype) for stage in stages]
    double = copy.deepcopy(mining).double()
    exact = published_mining(
        double, tokens.double(), concatenated_map([s.double() for s in stages])
    )
    theirs = published_mining(mining, tokens, concatenated_map(stages))
    assert difference(mining(tokens, stages), exact) < 1.5 * difference(theirs, exact)


def test_large_common_offsets_do_not_cancel() -> None:
    torch.manual_seed(0)
    mining, stages = stirred_mining(16, torch.float64), stages_of(64, POWERS, torch.float64)
    stages = [stage.detach() + 100 for stage in stages]
    tokens = torch.randn(2, 64, 16, dtype=torch.float64)
    exact = published_mining(mining, tokens, concatenated_map(stages))
    ours = mining.float()(tokens.float(), [stage.float() for stage in stages])
    assert difference(ours, exact) < 1e-4


def test_bfloat16_maps_and_autocast_stay_close() -> None:
    torch.manual_seed(0)
    mining, stages = stirred_mining(16, torch.float32), stages_of(64, POWERS, torch.float32)
    tokens = torch.randn(2, 64, 16)
    exact = published_mining(mining, tokens, concatenated_map(stages))
    with torch.autocast("cpu", torch.bfloat16):
        ours = mining(tokens, [stage.bfloat16() for stage in stages])
    assert ours.dtype == tokens.dtype
    assert difference(ours, exact) < 0.02
    half = mining.bfloat16()(tokens.bfloat16(), [stage.bfloat16() for stage in stages])
    assert half.dtype == torch.bfloat16
    assert difference(half, exact) < 0.03


def test_every_parameter_gets_a_gradient() -> None:
    mining = stirred_mining(16, torch.float32)
    mining(torch.randn(2, 16, 16), stages_of(32, POWERS, torch.float32)).sum().backward()
    assert all(parameter.grad is not None for parameter in mining.parameters())


def test_every_image_needs_a_map() -> None:
    mining, stages = stirred_mining(16, torch.float32), stages_of(32, POWERS, torch.float32)
    with pytest.raises(ValueError, match="1 images of tokens, but 2 of maps"):
        mining(torch.randn(1, 16, 16), stages)


def test_window_must_divide_the_map() -> None:
    mining, stages = stirred_mining(16, torch.float32), stages_of(64, POWERS, torch.float32)
    with pytest.raises(ValueError, match="side 64 does not divide into 3 windows"):
        mining(torch.randn(2, 9, 16), stages)

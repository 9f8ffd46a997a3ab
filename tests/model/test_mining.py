import pytest
import torch
from torch.nn import functional as F

from mgm.model.mining import PatchInfoMining, downscaled
from mgm.model.mining_reference import concatenated_map, published_mining
from tests.model.inputs import difference

DIMS = (4, 8, 12, 16)
POWERS = (1, 2, 4, 8)
# side of the token grid, side of the finest map, how many times coarser each stage is
LAYOUTS = {
    "nano": (8, 64, POWERS),
    "one window": (1, 8, POWERS),
    "windows smaller than a cell": (8, 32, POWERS),
    "odd factors": (5, 40, (1, 4, 5, 8)),
    "few positions": (4, 8, (1, 1, 2, 4)),
}
ROUNDING_ONLY = {"key.bias", "key.norm.bias"}


def stirred(width: int, dtype: torch.dtype) -> PatchInfoMining:
    mining = PatchInfoMining(width, DIMS)
    with torch.no_grad():
        for parameter in mining.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return mining.to(dtype)


def stages_of(side: int, factors: tuple[int, ...], dtype: torch.dtype) -> list[torch.Tensor]:
    maps = [
        (2 * torch.randn(2, channels, side // factor, side // factor) + 1).to(dtype)
        for channels, factor in zip(DIMS, factors, strict=True)
    ]
    return [stage.requires_grad_() for stage in maps]


def compare(ours, theirs, mining, tokens, stages, tolerance: float) -> None:
    """Both outputs, and both gradients of every input and parameter."""
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


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_the_published_form(layout: str, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    grid, side, factors = LAYOUTS[layout]
    mining, stages = stirred(16, dtype), stages_of(side, factors, dtype)
    tokens = torch.randn(2, grid * grid, 16, dtype=dtype, requires_grad=True)
    ours = mining(tokens, stages)
    theirs = published_mining(mining, tokens, concatenated_map(stages))
    compare(ours, theirs, mining, tokens, stages, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
@pytest.mark.parametrize(("factor", "factors"), [(2, POWERS), (3, (1, 2, 6, 12)), (4, POWERS)])
def test_global_view_equals_the_downscaled_map(factor, factors, dtype, tolerance) -> None:
    torch.manual_seed(0)
    side = 48
    mining, stages = stirred(16, dtype), stages_of(side, factors, dtype)
    tokens = torch.randn(2, 16, 16, dtype=dtype, requires_grad=True)
    small = F.interpolate(concatenated_map(stages), scale_factor=1 / factor, mode="bilinear")
    ours = mining(tokens, downscaled(stages, factor))
    compare(ours, published_mining(mining, tokens, small), mining, tokens, stages, tolerance)


def test_large_common_offsets_do_not_cancel() -> None:
    torch.manual_seed(0)
    mining, stages = stirred(16, torch.float64), stages_of(64, POWERS, torch.float64)
    stages = [stage.detach() + 100 for stage in stages]
    tokens = torch.randn(2, 64, 16, dtype=torch.float64)
    exact = published_mining(mining, tokens, concatenated_map(stages))
    ours = mining.float()(tokens.float(), [stage.float() for stage in stages])
    assert difference(ours, exact) < 1e-4


def test_bfloat16_maps_and_autocast_stay_close() -> None:
    torch.manual_seed(0)
    mining, stages = stirred(16, torch.float32), stages_of(64, POWERS, torch.float32)
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
    mining = stirred(16, torch.float32)
    mining(torch.randn(1, 16, 16), stages_of(32, POWERS, torch.float32)).sum().backward()
    assert all(parameter.grad is not None for parameter in mining.parameters())


def test_window_must_divide_the_map() -> None:
    with pytest.raises(ValueError, match="side 64 does not divide into 3 windows"):
        stirred(16, torch.float32)(torch.randn(2, 9, 16), stages_of(64, POWERS, torch.float32))

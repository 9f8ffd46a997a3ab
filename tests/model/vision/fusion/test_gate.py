"""MG-LLaVA's gate, against its formula written out position by position."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mgm.model.vision.fusion.fusion_sizes import FusionSizes
from mgm.model.vision.fusion.gate import ConvGate
from tests.model.inputs import difference
from tests.model.vision.maps import DIMS, POWERS, stages_of, stirred


def written_out(module: ConvGate, tokens: Tensor, full: Tensor, grid: int) -> Tensor:
    """Fused tokens t' + g h; full: (B, H, grid, grid)."""
    first, _, second = module.high
    depthwise, _, point = module.low
    hidden, _, last = module.gate
    fused = []
    for token, x in zip(tokens, full, strict=True):
        h = F.gelu(x.flatten(1).T @ first.weight.T + first.bias) @ second.weight.T + second.bias
        square = F.pad(token.T.reshape(1, -1, grid, grid), (3, 3, 3, 3))
        near = torch.stack(
            [
                (square[0, :, row : row + 7, column : column + 7] * depthwise.weight[:, 0]).sum(
                    (1, 2)
                )
                + depthwise.bias
                for row in range(grid)
                for column in range(grid)
            ]
        )
        t = token + F.gelu(near) @ point.weight[:, :, 0, 0].T + point.bias
        mean = torch.cat([t.mean(0), h.mean(0)])
        g = torch.tanh(F.gelu(mean @ hidden.weight.T + hidden.bias) @ last.weight.T + last.bias)
        fused.append(t + g * h)
    return torch.stack(fused)


@pytest.mark.parametrize("grid", [4, 8])
def test_it_is_the_formula(grid: int) -> None:
    torch.manual_seed(0)
    module = stirred(ConvGate(FusionSizes(16, DIMS, (8, 4, 2, 1))))
    stages = stages_of(8 * grid, POWERS, torch.float64)
    tokens = torch.randn(2, grid**2, 16, dtype=torch.float64, requires_grad=True)
    full = torch.cat([F.avg_pool2d(s, s.shape[-1] // grid) for s in stages], dim=1)
    ours, theirs = module(tokens, stages) + tokens, written_out(module, tokens, full, grid)
    assert difference(ours, theirs) < 1e-9
    direction, inputs = torch.randn_like(ours), [tokens, *stages, *module.parameters()]
    for mine, expected in zip(
        torch.autograd.grad(ours, inputs, direction),
        torch.autograd.grad(theirs, inputs, direction),
        strict=True,
    ):
        assert difference(mine, expected) < 1e-9


@torch.no_grad()
def test_at_the_start_it_adds_nothing() -> None:
    module = ConvGate(FusionSizes(16, DIMS, (8, 4, 2, 1)))
    stages = stages_of(32, POWERS, torch.float32)
    assert not module(torch.randn(2, 16, 16), stages).any()

"""Attention with one query, against the published form with that query for all tokens."""

import pytest
import torch
from torch import Tensor

from benchmarks.reference_mining import _normed_linear, concatenated_map, published_mining
from mgm.model.vision.fusion.modules import ONE_QUERY, ablated_mining
from mgm.model.vision.fusion.one_query import OneQuery
from mgm.model.vision.patch_info_mining import PatchInfoMining
from tests.model.inputs import difference
from tests.model.tiny import tiny_config
from tests.model.vision.maps import DIMS, LAYOUTS, sizes_of, stages_of, stirred, stirred_mining


def published_with(query: Tensor, mining, tokens, full, monkeypatch) -> Tensor:
    """The published form with `query` (1 or B, C) in place of the tokens' queries."""
    with monkeypatch.context() as patch:
        patch.setattr(
            "benchmarks.reference_mining._normed_linear",
            lambda layer, x: (
                query.unsqueeze(1).expand_as(x) if layer is mining.query
                else _normed_linear(layer, x)
            ),
        )  # fmt: skip
        return published_mining(mining, tokens, full)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_equals_the_published_form_with_that_query(layout, monkeypatch) -> None:
    torch.manual_seed(0)
    grid, side, factors = LAYOUTS[layout]
    module, stages = (
        stirred(OneQuery(sizes_of(layout, 16))),
        stages_of(side, factors, torch.float64),
    )
    twin = PatchInfoMining(16, DIMS).double()
    twin.key, twin.value = module.key, module.value
    tokens = torch.randn(2, grid**2, 16, dtype=torch.float64)
    ours = module(tokens, stages)
    theirs = published_with(module.query, twin, tokens, concatenated_map(stages), monkeypatch)
    assert difference(ours, theirs) < 1e-9
    assert torch.equal(ours, module(torch.randn_like(tokens), stages))  # whatever the tokens are
    direction = torch.randn_like(ours)
    inputs = [*stages, module.query, module.key.weight, *module.value.parameters()]
    for mine, published in zip(
        torch.autograd.grad(ours, inputs, direction, retain_graph=True),
        torch.autograd.grad(theirs, inputs, direction),
        strict=True,
    ):
        assert difference(mine, published) < 1e-8
    ours.sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    weights = module.attention(tokens, stages)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_an_ablation_of_mining_has_a_given_query_or_the_mean(layout, monkeypatch) -> None:
    torch.manual_seed(0)
    grid, side, factors = LAYOUTS[layout]
    mining, stages = stirred_mining(16, torch.float64), stages_of(side, factors, torch.float64)
    tokens, full = torch.randn(2, grid**2, 16, dtype=torch.float64), concatenated_map(stages)
    given = torch.randn(1, 16, dtype=torch.float64)
    for query, expected in ((None, mining.query(tokens).mean(1)), (given[0].tolist(), given)):
        module = ablated_mining(mining, tiny_config(), ONE_QUERY, query, tokens.unsqueeze(1))
        assert not any("query" in name for name, _ in module.named_parameters())
        theirs = published_with(expected, mining, tokens, full, monkeypatch)
        assert difference(module(tokens, stages), theirs) < 1e-9

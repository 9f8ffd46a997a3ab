"""Linear layers through oneDNN equal torch's, which run where oneDNN does not apply."""

from copy import deepcopy

import pytest
import torch
from timm.layers import Mlp
from torch import nn

from mgm.model.ops.onednn_linear import OneDNNLinear, use_onednn

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN"
)


@pytest.fixture(autouse=True)
def avx512(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")


@pytest.fixture
def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64, bias=False), nn.GELU(approximate="tanh")
    )


def fast(module: nn.Module) -> nn.Module:
    module = deepcopy(module)
    use_onednn(module)
    return module


@pytest.mark.parametrize("shape", [(2, 3), (1, 512), (2, 8, 8, 64)])
def test_equals_torch(layers, shape):
    ours = fast(layers)
    assert isinstance(ours[0], OneDNNLinear)
    assert isinstance(ours[1], nn.Identity)
    assert isinstance(ours[3], nn.GELU)  # another formula
    images = torch.randn(*shape, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), layers(images), rtol=1e-5, atol=1e-6)


def test_non_contiguous_input(layers):
    hidden = torch.randn(64, 1024).T
    with torch.inference_mode():
        torch.testing.assert_close(fast(layers)(hidden), layers(hidden), rtol=1e-5, atol=1e-6)


def test_size_decides(layers):
    ours = fast(layers)
    for rows, expected in ((8, 0), (1024, 2)):
        with torch.inference_mode(), torch.profiler.profile() as profile:
            ours(torch.randn(rows, 64))
        names = [event.name for event in profile.events()]
        assert names.count("mkldnn::_linear_pointwise") == expected


def test_gradients(layers):
    ours = fast(layers)
    hidden = torch.randn(512, 64)
    for module in (ours, layers):
        module(hidden).square().sum().backward()
    torch.testing.assert_close(ours[0].weight.grad, layers[0].weight.grad)


def test_other_dtypes_use_torch(layers):
    ours, theirs = fast(layers).double(), layers.double()
    hidden = torch.randn(512, 64, dtype=torch.float64)
    with torch.inference_mode():
        assert torch.equal(ours(hidden), theirs(hidden))


def test_weight_names_are_unchanged(layers):
    block = nn.Module()
    block.mlp = Mlp(32, 128)
    block.layers = layers
    ours = fast(block)
    assert isinstance(ours.mlp.act, nn.Identity)
    assert ours.state_dict().keys() == block.state_dict().keys()
    hidden = torch.randn(1024, 32)
    with torch.inference_mode():
        torch.testing.assert_close(ours.mlp(hidden), block.mlp(hidden), rtol=1e-5, atol=1e-6)


def test_other_processors_use_torch(layers, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert type(fast(layers)[0]) is nn.Linear

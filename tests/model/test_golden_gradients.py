"""Gradients equal published ones; frozen towers have none."""

import numpy as np
import pytest
import torch

from mgm.model.loading import load_model
from mgm.model.published_layout.weight_names import to_published
from tests.golden_files import golden, golden_json
from tests.model.inputs import Case, difference, expanded, pixels

# In float64 only the rounding of the published run remains. In float32, on some processors, the
# published code itself differs from float64 by as much.
TOLERANCES = {torch.float64: 1e-5, torch.float32: 2e-5}
# The key's bias does not affect attention: the published gradient is rounding noise.
ONLY_ROUNDING = {"model.vlm_uni_aux_projector.0.bias", "model.vlm_uni_aux_projector.1.bias"}


@pytest.fixture(scope="module", params=TOLERANCES)
def tolerance(request) -> tuple[torch.dtype, float]:
    return request.param, TOLERANCES[request.param]


@pytest.fixture(scope="module")
def gradients(tolerance) -> dict[str, torch.Tensor | None]:
    dtype, _ = tolerance
    manifest = golden_json("models/manifest.json")
    case = Case.read(manifest, "mgm_llama", "single")
    model = load_model(golden(manifest["mgm_llama"]["checkpoint"])).train().to(dtype)
    images = pixels(case.entry["images"], model.config)
    images = {name: value.to(dtype) for name, value in images.items()}
    model(**expanded(case, model.config), **images).loss.backward()
    return {to_published(name): value.grad for name, value in model.named_parameters()}


def test_gradient_norms(gradients, tolerance) -> None:
    norms = golden_json("models/mgm_llama_grad_norms.json")
    assert gradients.keys() == norms.keys()
    for name, norm in norms.items():
        gradient = gradients[name]
        if norm is None:
            assert gradient is None, name
        elif name in ONLY_ROUNDING:
            assert gradient.norm() < 1e-5, name
        else:
            assert gradient.norm().item() == pytest.approx(norm, rel=tolerance[1]), name


def test_stored_gradients(gradients, tolerance) -> None:
    with np.load(golden("models/mgm_llama_grads.npz")) as stored:
        for name in set(stored.files) - ONLY_ROUNDING:
            assert difference(gradients[name], stored[name]) < tolerance[1], name

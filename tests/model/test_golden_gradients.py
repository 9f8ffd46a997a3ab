"""The published loss has the published gradients, and both towers have none."""

import numpy as np
import pytest
import torch

from mgm.model.loading import load_model
from mgm.model.published import to_published
from tests.golden_files import golden, golden_json
from tests.model.inputs import Case, difference, expanded, pixels

TOLERANCE = 1e-5
# Scores do not change with the key's bias: what the published code has there is rounding.
ONLY_ROUNDING = {"model.vlm_uni_aux_projector.0.bias", "model.vlm_uni_aux_projector.1.bias"}


@pytest.fixture(scope="module")
def gradients() -> dict[str, torch.Tensor | None]:
    manifest = golden_json("models/manifest.json")
    case = Case.read(manifest, "mgm_llama", "single")
    model = load_model(golden(manifest["mgm_llama"]["checkpoint"])).train()
    model(
        **expanded(case, model.config), **pixels(case.entry["images"], model.config)
    ).loss.backward()
    return {to_published(name): value.grad for name, value in model.named_parameters()}


def test_every_parameter_has_the_published_gradient_norm(gradients) -> None:
    norms = golden_json("models/mgm_llama_grad_norms.json")
    assert gradients.keys() == norms.keys()
    for name, norm in norms.items():
        gradient = gradients[name]
        if norm is None:
            assert gradient is None, name
        elif name in ONLY_ROUNDING:
            assert gradient.norm() < 1e-5, name
        else:
            assert gradient.norm().item() == pytest.approx(norm, rel=TOLERANCE), name


def test_stored_gradients_are_the_published_ones(gradients) -> None:
    with np.load(golden("models/mgm_llama_grads.npz")) as stored:
        for name in set(stored.files) - ONLY_ROUNDING:
            assert difference(gradients[name], stored[name]) < TOLERANCE, name

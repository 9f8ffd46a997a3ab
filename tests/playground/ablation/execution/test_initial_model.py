"""What arms of one seed have in common: initial weights and data order."""

from dataclasses import replace

import pytest
import torch

from playground.ablation.execution.initial_model import cost, initial_model
from playground.ablation.study import Arm

TINY = {"image_size_aux": 128, "model_max_length": 256}
MINING = Arm("A1", "mining", config=TINY)
FUSIONS = [
    {"mode": "pool"},
    {"mode": "one_query"},
    {"mode": "concat"},
    {"mode": "gate"},
    {"mode": "one_query", "high_resolution_only": True},
    {"blur_high_resolution": 32},
    {"mode": "none"},
    {"token_pooling": 2},
]


def weights(arm, inputs, seed=1):
    return initial_model(arm, seed, inputs / "language", inputs / "encoders").state_dict()


@pytest.mark.parametrize("fusion", FUSIONS, ids=str)
def test_arms_of_a_seed_share_all_weights_that_they_have_in_common(fusion, tiny_inputs):
    reference = weights(MINING, tiny_inputs)
    arm = weights(replace(MINING, fusion=fusion), tiny_inputs)
    shared = [
        name for name in arm if name in reference and arm[name].shape == reference[name].shape
    ]
    assert {name.split(".")[0] for name in shared} >= {"projector", "language_model"}
    assert all(torch.equal(arm[name], reference[name]) for name in shared)


def test_seeds_differ_in_new_weights_alone(tiny_inputs):
    first, second = (weights(MINING, tiny_inputs, seed) for seed in (1, 2))
    differing = {name.split(".")[0] for name in first if not torch.equal(first[name], second[name])}
    assert differing == {"mining", "projector"}


def test_cost_counts_what_runs(tiny_inputs):
    model = initial_model(MINING, 1, tiny_inputs / "language", tiny_inputs / "encoders")
    counted = cost(model.config)
    parts = (model.vision_tower, model.vision_tower_aux, model.mining, model.projector)
    assert counted["parameters"] == sum(p.numel() for part in parts for p in part.parameters())
    assert counted["image_tokens"] == model.config.image_tokens_per_image
    alone = replace(MINING, fusion={"mode": "none"})
    without = initial_model(alone, 1, tiny_inputs / "language", tiny_inputs / "encoders")
    assert cost(without.config)["flops"] < counted["flops"]

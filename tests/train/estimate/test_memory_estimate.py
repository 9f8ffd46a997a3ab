"""Estimates compared with released models and counted FLOPs."""

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mgm.train.args.validation import parse_flags
from mgm.train.distributed.batch_plan import BatchPlan
from mgm.train.estimate.flops import forward_flops
from mgm.train.estimate.memory_estimate import (
    ZeroConfig,
    build_meta_model,
    estimate_run,
    memory_per_device,
)
from tests.golden_files import golden_json
from tests.model.tiny import tiny_model

SCRIPTS = Path(__file__).parents[3] / "scripts"
RELEASED = {
    "MGM-2B": "gemma/gemma-2b.json",
    "MGM-7B": "llama/vicuna-7b.json",
    "MGM-8B": "llama3/llama-3-8b.json",
    "MGM-13B": "llama/vicuna-13b.json",
    "MGM-34B": "yi/yi-34b.json",
    "MGM-8x7B": "mixtral/mixtral-8x7b.json",
}
FLAGS = {
    "model_name_or_path": ["nowhere"],
    "vision_tower": ["nowhere"],
    "vision_tower_aux": ["nowhere"],
    "mm_projector_type": ["mlp2x_gelu"],
    "image_size_aux": ["768"],
    "data_path": ["nowhere.json"],
    "output_dir": ["nowhere"],
}


def model_of(name: str):
    words = [word for flag, values in FLAGS.items() for word in (f"--{flag}", *values)]
    return build_meta_model(parse_flags(words), SCRIPTS / RELEASED[name])


@pytest.mark.parametrize("name", RELEASED)
def test_parameters_of_the_released_models(name):
    released = golden_json("released_layout.json")[name]
    model = model_of(name)
    shared = model.get_input_embeddings().weight.numel() if released["tied_lm_head"] else 0
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert counted + shared == released["n_params"]  # there a tied head is counted twice
    tower = model.vision_tower_aux
    assert sum(p.numel() for p in tower.parameters()) == released["convnext_params"]


def test_flops_of_a_language_model():
    model = tiny_model()
    text, tokens = model.config.text_config, 50
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.language_model(inputs_embeds=torch.randn(1, tokens, text.hidden_size))
    attention = 2 * tokens**2 * text.num_hidden_layers * text.hidden_size
    # The counter counts all pairs of positions, of which causal attention needs half.
    assert counter.get_total_flops() == sum(forward_flops(model, text, tokens)) + attention


def test_memory_by_zero_stage():
    model = model_of("MGM-7B")
    total = sum(parameter.numel() for parameter in model.parameters())
    batches = BatchPlan(8, 1, 1)

    def held(stage: int, optimizer_on_cpu: bool = False) -> float:
        return memory_per_device(
            model, total, batches, 800, ZeroConfig(stage, optimizer_on_cpu, False), True
        )

    # ZeRO (https://arxiv.org/abs/1910.02054), figure 1: 16 bytes per parameter, divided by stage.
    assert held(1) - held(2) == pytest.approx(2 * total * 7 / 8)
    assert held(2) - held(3) == pytest.approx(2 * total * 7 / 8)
    assert held(2) - held(2, optimizer_on_cpu=True) == pytest.approx(12 * total / 8)


def test_report_text():
    config = SCRIPTS / RELEASED["MGM-7B"]
    text = estimate_run(FLAGS, BatchPlan(8, 16, 2), config)
    assert "7.27 G" in text
    assert "576 of an image" in text
    assert "nowhere.json is missing" in text
    without = estimate_run(FLAGS, BatchPlan(8, 16, 2), None)
    assert without == "forecast: not possible, nowhere is missing"


def test_mixture_weights(tmp_path):
    turns = [{"from": "human", "value": "say"}, {"from": "gpt", "value": "yes"}]
    (tmp_path / "a.json").write_text(json.dumps([{"conversations": turns}] * 40))
    mixture = {"datasets": [{"path": "a.json", "weight": 2.5}, {"path": "a.json", "name": "b"}]}
    (tmp_path / "mixture.json").write_text(json.dumps(mixture))
    for file, samples in (("a.json", 40), ("mixture.json", 140)):
        flags = FLAGS | {"data_path": [str(tmp_path / file)]}
        text = estimate_run(flags, BatchPlan(1, 4, 5), SCRIPTS / RELEASED["MGM-2B"])
        assert f"{samples // 20 * 3} steps for {samples} samples" in text


def test_duration_of_a_stream():
    flags = FLAGS | {"data_path": ["s3://a/{0..9}.tar"], "streaming": ["True"]}
    flags |= {"max_steps": ["1000"], "fsdp": ["full_shard"]}
    text = estimate_run(flags, BatchPlan(8, 16, 2), SCRIPTS / RELEASED["MGM-7B"])
    assert " h, 1,000 steps" in text
    assert "FSDP2" in text

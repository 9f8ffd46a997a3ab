"""FLOPs of a run compared with torch's counter, and the displayed MFU."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mgm.train import trainer as module
from mgm.train.__main__ import run_training
from mgm.train.estimate.flops import FlopsCounter
from tests.model.tiny import ids_of, random_images, tiny_model
from tests.train.conftest import words


@pytest.mark.parametrize("trains", [True, False])
def test_flops_equal_the_counter(trains):
    model = tiny_model().train()
    model.requires_grad_(False)
    model.projector.requires_grad_(True)
    model.language_model.requires_grad_(trains)
    ids = torch.tensor([ids_of(model.config, "I" + "t" * 40)])
    images = random_images(model.config, 1)
    with FlopCounterMode(display=False) as counter:
        output = model(input_ids=ids, labels=ids, **images)
        output.loss.backward()
    tokens = ids.shape[1]
    ours = FlopsCounter(model).training_flops(1, 1, tokens)
    text = model.config.text_config
    # torch counts all pairs of positions, twice as many as causal attention needs, and recomputed
    # scores in the backward pass, which we do not count: 2 + 5 halves, ours are 3.
    half = 2 * tokens**2 * text.num_hidden_layers * text.hidden_size
    assert ours + 4 * half == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_mfu_of_known_gpus(stage2_flags, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "mgm")
    monkeypatch.setattr(module, "device_peak_flops", lambda: ("some device", 1e12))
    trainer = run_training(words(stage2_flags | {"output_dir": tmp_path, "save_strategy": "no"}))
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    for entry in steps:
        per_token = entry["mfu"] * 1e12 / entry["tokens_per_second"]
        weights = sum(p.numel() for p in trainer.model.language_model.parameters())
        assert 2 * weights < per_token < 200 * weights
    assert any("MFU 0%" in line for line in caplog.messages)


def test_no_mfu_of_unknown_devices(stage2_flags, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this device's peak may be known")
    flags = stage2_flags | {"output_dir": tmp_path, "save_strategy": "no", "max_steps": 1}
    assert "mfu" not in run_training(words(flags)).state.log_history[0]

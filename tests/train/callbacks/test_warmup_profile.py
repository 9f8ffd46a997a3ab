"""The estimate before the first step: it is logged, and does not change training."""

import logging

import torch

from mgm.train.__main__ import run_training
from mgm.train.callbacks import warmup_profile as trial
from tests.train.conftest import words


def test_estimate_uses_real_batches_and_changes_no_bit(stage2_flags, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="mgm")
    flags = stage2_flags | {"save_strategy": "no", "max_steps": 12, "drop_path": True}
    plain = run_training(words(flags | {"output_dir": tmp_path / "plain"}))
    assert "forecast" not in caplog.text  # too few steps for an estimate
    monkeypatch.setattr(trial, "MIN_RUN_RATIO", 1)
    with_trial = run_training(words(flags | {"output_dir": tmp_path / "trial"}))
    assert "forecast: 0.0 M parameters, 0.0 M trained" in caplog.text
    assert "12 steps of 2 samples" in caplog.text
    theirs = plain.model.state_dict()
    for name, tensor in with_trial.model.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name
    assert torch.equal(with_trial.data_collator.counts, plain.data_collator.counts)

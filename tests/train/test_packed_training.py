"""Training with packing."""

import json
import shutil

import pytest
import torch

from mgm.errors import MGMError
from mgm.train.__main__ import run_training
from tests.train.conftest import words


@pytest.fixture
def flags(stage2_flags):
    return stage2_flags | {
        "packing": True,
        "group_by_modality_length": False,
        "model_max_length": 96,
        "per_device_train_batch_size": 1,
        "num_train_epochs": 2,
        "save_steps": 1,
    }


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.heavy
@pytest.mark.parametrize("by_modality", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_sample_once_per_epoch(flags, data, tmp_path, by_modality):
    # Rows have similar numbers of images, with and without the recipes' flag.
    flags = flags | {"group_by_modality_length": by_modality}
    trainer = run_training(words(flags | {"output_dir": tmp_path}))
    rows = trainer.train_dataset.rows
    count = len(json.loads(data.read_text()))
    assert sorted(index for row in rows for index in row) == list(range(count))
    assert len(rows) < count / 2
    assert trainer.state.global_step == 2 * len(rows)
    assert losses(trainer)[-1] < losses(trainer)[0]


@pytest.mark.slow
def test_resume_is_exact(flags, tmp_path):
    straight = run_training(words(flags | {"output_dir": tmp_path / "straight"}))
    stopped = tmp_path / "stopped"
    run_training(words(flags | {"output_dir": stopped}))
    for folder in stopped.glob("checkpoint-*"):
        if folder.name != "checkpoint-2":
            shutil.rmtree(folder)
    resumed = run_training(words(flags | {"output_dir": stopped}))
    assert losses(resumed) == losses(straight)
    theirs = straight.model.state_dict()
    for name, tensor in resumed.model.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name


def test_packing_with_grouping(flags, tmp_path):
    with pytest.raises(MGMError, match="--group_by_length beside --packing: choose one"):
        run_training(words(flags | {"group_by_length": True, "output_dir": tmp_path}))

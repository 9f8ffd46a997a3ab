"""NaN losses, changed flags and crashed loader workers end a run without losing checkpoints."""

import json
import os
import signal

import pytest

from mgm.data.datasets.training_dataset import TrainingDataset
from mgm.errors import MGMError
from mgm.train.__main__ import run_training
from mgm.train.checkpointing.checkpoints import list_checkpoints
from tests.train.conftest import words


@pytest.fixture
def flags(stage2_flags, tmp_path):
    return stage2_flags | {"output_dir": tmp_path, "save_steps": 1, "save_strategy": "steps"}


def test_nan_loss_names_its_samples(flags, data, tmp_path):
    with pytest.raises(MGMError) as caught:
        run_training(words(flags | {"learning_rate": 1e30, "max_grad_norm": 0, "warmup_steps": 0}))
    text = str(caught.value)
    assert "the loss is nan" in text or "the loss is inf" in text
    last = list_checkpoints(tmp_path)[-1]
    assert f"{last} is the last good checkpoint" in text
    step = int(text.split(":")[0].removeprefix("step "))
    assert last.name == f"checkpoint-{step - 1}"
    samples = text.split("samples of the step: ")[1].split(";")[0].split(", ")
    assert len(samples) == 2
    assert all(0 <= int(index) < len(json.loads(data.read_text())) for index in samples)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"per_device_train_batch_size": 1}, "--per_device_train_batch_size was 2, is 1"),
        ({"seed": 7}, "--seed was 42, is 7"),
        ({"group_by_modality_length": False}, "--group_by_modality_length was True, is False"),
    ],
)
def test_changed_flags_after_a_stop(flags, change, fault):
    run_training(words(flags | {"max_steps": 2}))
    with pytest.raises(MGMError, match=fault):
        run_training(words(flags | change | {"max_steps": 4}))


def test_changed_data_after_a_stop(flags, data, tmp_path):
    run_training(words(flags | {"max_steps": 2}))
    path = tmp_path / "less.json"
    path.write_text(json.dumps(json.loads(data.read_text())[:-1]))
    with pytest.raises(MGMError, match=r"number of samples was 12, is 11"):
        run_training(
            words(flags | {"max_steps": 4, "data_path": path, "image_folder": data.parent})
        )


def test_crashed_loader_worker(flags, monkeypatch):
    def dies(self, index):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(TrainingDataset, "__getitem__", dies)
    with pytest.raises(MGMError, match="a DataLoader worker died"):
        run_training(words(flags | {"dataloader_num_workers": 1}))

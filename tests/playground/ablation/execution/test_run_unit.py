"""The commands of a unit, and what trainings of one seed have in common."""

import os
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from mgm.model.labels import IGNORE_INDEX
from mgm.train.__main__ import run_training
from mgm.train.trainer import MGMTrainer
from playground.ablation.execution.initial_model import initial_model, save
from playground.ablation.execution.run_unit import remove_weights, training_command
from playground.ablation.study import Arm
from playground.generate import generate

ROOT = Path(__file__).parents[4]
# Long enough for all samples: where some are cut, arms with more image tokens lose more of them.
ARM = Arm("A1", "mining", config={"image_size_aux": 128, "model_max_length": 512})
SIZE = {
    "name": "S",
    "stage_1": {"max_steps": 3, "per_device_train_batch_size": 2, "dataloader_num_workers": 0},
    "stage_2": {
        "max_steps": 3,
        "per_device_train_batch_size": 2,
        "dataloader_num_workers": 0,
        "save_steps": 3,
        "optimize_vision_tower": True,
        "optimize_vision_tower_aux": True,
    },
}


def settings_of(arm: Arm, seed: int = 1) -> dict:
    return {"arm": asdict(arm), "size": SIZE, "seed": seed}


def flags_of(command: list[str], folder: Path) -> list[str]:
    """The flags that a script of a stage gives to python -m mgm.train."""
    python = folder / "bin" / "python"
    python.parent.mkdir(exist_ok=True)
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path}
    run = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith("-m\nmgm.train\n")
    return run.stdout.splitlines()[2:]


def given(flags: list[str], name: str) -> str:
    """The value that counts: the last one."""
    return flags[len(flags) - flags[::-1].index(f"--{name}")]


@pytest.fixture
def paths(tiny_inputs, tmp_path):
    generate(tmp_path / "data/train", "train", 16, seed=1, kinds=("shapes", "sign"))
    return {
        "data": tmp_path / "data",
        "language_model": tiny_inputs / "language",
        "encoders": tiny_inputs / "encoders",
    }


@pytest.mark.process
def test_a_unit_goes_through_the_ordinary_commands(tmp_path):
    paths = {name: tmp_path / name for name in ("data", "language_model", "encoders")}
    unit = tmp_path / "unit"
    first = flags_of(training_command("stage_1", unit, settings_of(ARM, 7), paths), tmp_path)
    assert given(first, "model_name_or_path") == str(unit / "initial")
    assert given(first, "vision_tower_aux").startswith(str(tmp_path / "encoders"))
    assert given(first, "tune_mm_mlp_adapter") == "True"
    assert (given(first, "seed"), given(first, "data_seed")) == ("7", "7")
    assert given(first, "save_total_limit") == "1"
    alone = replace(ARM, fusion={"mode": "none"})
    none = flags_of(training_command("stage_1", unit, settings_of(alone), paths), tmp_path)
    assert given(none, "vision_tower_aux") == "none"
    second = flags_of(training_command("stage_2", unit, settings_of(ARM), paths), tmp_path)
    assert given(second, "model_name_or_path") == str(unit / "stage_1")
    assert given(second, "save_steps") == "3"
    assert "--vision_tower" not in second
    assert given(second, "optimize_vision_tower_aux") == "True"
    without = flags_of(training_command("stage_2", unit, settings_of(alone), paths), tmp_path)
    assert "--optimize_vision_tower_aux" not in without


@pytest.mark.process
@pytest.mark.slow
def test_arms_of_a_seed_see_the_same_data_in_the_same_order(paths, tmp_path, monkeypatch):
    batches = []
    step = MGMTrainer.training_step

    def recorded(self, model, inputs, *rest):
        labels = inputs["labels"]
        batches.append([row[row != IGNORE_INDEX].tolist() for row in labels])
        return step(self, model, inputs, *rest)

    monkeypatch.setattr(MGMTrainer, "training_step", recorded)

    def trained(name, seed, fusion):
        arm, unit = replace(ARM, fusion=fusion), tmp_path / name
        model = initial_model(arm, seed, paths["language_model"], paths["encoders"])
        save(model, paths["language_model"], unit / "initial")
        batches.clear()
        for stage in ("stage_1", "stage_2"):
            command = training_command(stage, unit, settings_of(arm, seed), paths)
            run_training(flags_of(command, tmp_path))
        assert len(batches) == 6
        return list(batches)

    reference = trained("mining", 1, {})
    assert trained("gate", 1, {"mode": "gate"}) == reference
    assert trained("fewer tokens", 1, {"token_pooling": 2}) == reference
    assert trained("no high resolution", 1, {"mode": "none"}) == reference
    assert trained("another seed", 2, {}) != reference


def test_weights_of_finished_units_are_removed_and_json_stays(tmp_path):
    for name in ("initial/model.safetensors", "stage_1/mm_projector.bin", "stage_1/config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in ("model.safetensors", "trainer_state.json", "checkpoint-3/optimizer.pt"):
        (tmp_path / "stage_2" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "stage_2" / name).touch()

    def left():
        return {str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file()}

    remove_weights(tmp_path, keep_model=True)
    json_files = {"stage_1/config.json", "stage_2/trainer_state.json"}
    assert left() == json_files | {"stage_2/model.safetensors"}
    remove_weights(tmp_path, keep_model=False)
    assert left() == json_files

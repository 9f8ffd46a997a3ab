"""Resuming with changes: rejected by name, or accepted and logged."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mgm.errors import MGMError
from mgm.train.__main__ import run_training
from tests.train.conftest import words


@pytest.fixture(autouse=True)
def log(caplog):
    caplog.set_level(logging.INFO, "mgm")


@pytest.fixture(scope="module")
def flags(stage2_flags, tmp_path_factory) -> dict[str, object]:
    """Flags of a finished run of two steps, in its own output folder."""
    output = tmp_path_factory.mktemp("finished")
    flags = stage2_flags | {"max_steps": 2, "save_steps": 2, "output_dir": output}
    run_training(words(flags))
    return flags


@pytest.fixture
def finished(flags, tmp_path) -> dict[str, object]:
    """Flags of a copy of the finished run."""
    output = shutil.copytree(Path(str(flags["output_dir"])), tmp_path / "run")
    return flags | {"output_dir": output}


def fault(flags: dict[str, object]) -> str:
    weights = Path(str(flags["output_dir"])) / "model.safetensors"
    before = weights.read_bytes()
    with pytest.raises(MGMError) as caught:
        run_training(words(flags))
    assert "\n" not in str(caught.value)
    assert weights.read_bytes() == before
    return str(caught.value)


def test_finished_run_with_other_flags(finished, data, caplog):
    run_training(words(finished))
    assert "all 2 steps are done" in caplog.text
    assert "--learning_rate was 0.01, is 0.5" in fault(finished | {"learning_rate": 0.5})
    assert "--model_max_length was 64, is 65" in fault(finished | {"model_max_length": 65})
    message = fault(finished | {"image_aspect_ratio": "square"})
    assert "--image_aspect_ratio was pad, is square" in message
    other = data.parent / "other.json"
    other.write_text(
        data.read_text().replace('"say 0"', '"sum 0"')
    )  # of equal length and number of samples
    try:
        assert "--data_path was " in fault(finished | {"data_path": other})
    finally:
        other.unlink()


def test_moved_data_folder(finished, data, tmp_path, caplog):
    moved = shutil.copytree(data.parent, tmp_path / "moved")
    run_training(words(finished | {"data_path": moved / "data.json"}))
    assert "all 2 steps are done" in caplog.text
    assert f"--data_path {data} is at {moved}/data.json now" in caplog.text


def test_other_initial_weights(finished, tmp_path):
    other = shutil.copytree(Path(str(finished["model_name_or_path"])), tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    name = next(iter(weights))
    save_file(
        weights | {name: weights[name] + 1}, other / "model.safetensors", metadata={"format": "pt"}
    )
    assert "--model_name_or_path was " in fault(finished | {"model_name_or_path": other})


def test_more_steps_are_accepted_with_a_warning(finished, caplog):
    output = Path(str(finished["output_dir"]))
    longer = run_training(words(finished | {"max_steps": 4}))
    assert "had 2 before: the schedule 'linear' is recomputed for 4 steps" in caplog.text
    rates = [entry["learning_rate"] for entry in longer.state.log_history if "loss" in entry]
    assert rates[2:] == [0.005, 0.0025]
    assert "--max_steps 3: " in fault(finished | {"max_steps": 3})
    (output / "checkpoint-4" / "run.json").write_text("{")
    assert "checkpoint-4/run.json: is not valid JSON" in fault(finished | {"max_steps": 4})


@pytest.mark.slow
def test_more_steps_with_a_constant_schedule(finished, stage2_flags, tmp_path):
    """Two steps and two more give the weights of four."""
    constant = finished | {"lr_scheduler_type": "constant", "output_dir": tmp_path / "two"}
    run_training(words(constant))
    run_training(words(constant | {"max_steps": 4}))
    run_training(words(constant | {"max_steps": 4, "output_dir": tmp_path / "four"}))
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("two", "four"))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_more_epochs(finished, tmp_path):
    epochs = finished | {"max_steps": None, "save_steps": 100, "output_dir": tmp_path / "epochs"}
    epochs["save_strategy"] = "epoch"
    first = run_training(words(epochs))
    longer = run_training(words(epochs | {"num_train_epochs": 2}))
    assert longer.state.global_step == 2 * first.state.global_step
    assert "--num_train_epochs 1.0: " in fault(epochs)


def test_other_validation_data_is_logged(finished, data, tmp_path, caplog):
    measured = {"eval_strategy": "steps", "eval_steps": 2, "eval_data_path": data}
    run_training(words(finished | measured))
    assert "--eval_strategy was no, is steps" in caplog.text


def test_checkpoint_without_a_fingerprint(finished, caplog):
    checkpoint = Path(str(finished["output_dir"])) / "checkpoint-2"
    (checkpoint / "run.json").unlink()
    run_training(words(finished))
    (line,) = (line for line in caplog.messages if "cannot be compared" in line)
    assert "has no run.json" in line


@pytest.fixture
def without_digests(finished) -> dict[str, object]:
    """A checkpoint as older versions wrote it."""
    file = Path(str(finished["output_dir"])) / "checkpoint-2" / "run.json"
    fingerprint = json.loads(file.read_text())
    del fingerprint["files"]
    file.write_text(json.dumps(fingerprint))
    return finished | {"max_steps": 3}


def test_file_of_another_run(without_digests):
    """A valid file of the right type, of other parameters or another program."""
    checkpoint = Path(str(without_digests["output_dir"])) / "checkpoint-2"
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    for moments in state["state"].values():
        moments["exp_avg"] = torch.zeros(2, 2)
    torch.save(state, checkpoint / "optimizer.pt")
    assert "optimizer.pt: is damaged, or of another kind" in fault(without_digests)


def test_rng_state_of_another_program(without_digests):
    checkpoint = Path(str(without_digests["output_dir"])) / "checkpoint-2"
    torch.save({"python": 1, "numpy": 2, "cpu": 3}, checkpoint / "rng_state.pth")
    message = fault(without_digests)
    assert "rng_state.pth: is damaged, or of another kind" in message


def test_digests_of_all_files(finished):
    checkpoint = Path(str(finished["output_dir"])) / "checkpoint-2"
    digests = json.loads((checkpoint / "run.json").read_text())["files"]
    assert {file.name for file in checkpoint.iterdir()} == digests.keys() | {"run.json"}
    weights = checkpoint / "model.safetensors"
    stored = load_file(weights)
    save_file({name: tensor + 1 for name, tensor in stored.items()}, weights, {"format": "pt"})
    for file in (weights, checkpoint / "tokenizer.json"):
        if file != weights:
            file.write_text(file.read_text() + "\n")
        assert f"{file}: changed since the checkpoint was made" in fault(finished)


@pytest.mark.parametrize("steps", [2, 3])
def test_missing_file(finished, steps):
    """Without it the tokenizer would have no special tokens."""
    file = Path(str(finished["output_dir"])) / "checkpoint-2" / "tokenizer_config.json"
    file.unlink()
    message = fault(finished | {"max_steps": steps})
    assert message.startswith(
        f"{file}: listed in {file.parent / 'run.json'}, but missing or no file"
    )


@pytest.mark.parametrize("name", ["tokenizer.json", "processor_config.json"])
def test_processor_of_another_model(finished, tmp_path, name):
    folder = shutil.copytree(str(finished["model_name_or_path"]), tmp_path / "model")
    settings = json.loads((folder / name).read_text())
    if name == "tokenizer.json":
        settings["model"]["vocab"] |= {"other": 4000}
    else:
        settings["patch_size"] = 2 * settings["patch_size"]
    (folder / name).write_text(json.dumps(settings))
    fresh = finished | {"model_name_or_path": folder, "output_dir": tmp_path / "new"}
    with pytest.raises(MGMError, match=f"^{folder / name}: "):
        run_training(words(fresh))


def test_kind_of_training_is_compared_before_loading(finished):
    assert "--lora_enable was False, is True" in fault(finished | {"lora_enable": True})
    assert "--freeze_backbone was False, is True" in fault(finished | {"freeze_backbone": True})
    assert json.loads(
        (Path(str(finished["output_dir"])) / "checkpoint-2" / "run.json").read_text()
    )["items"]

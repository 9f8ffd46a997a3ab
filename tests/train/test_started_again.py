"""Starting a finished run again leaves its result byte-identical."""

import logging
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mgm.errors import MGMError
from mgm.model.loading import load_model
from mgm.train.__main__ import run_training
from tests.train.conftest import words
from tests.train.test_processes import zero_settings
from tests.train.test_resume_processes import train

SAVING = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1}


@pytest.fixture(autouse=True)
def log(caplog):
    caplog.set_level(logging.INFO, "mgm")


def contents(folder: Path) -> dict[str, bytes]:
    """Contents of the files of a folder, without checkpoints and plots."""
    files = (file for file in folder.iterdir() if file.is_file() and file.suffix != ".png")
    return {file.name: file.read_bytes() for file in files}


def fault(flags: dict[str, object]) -> str:
    with pytest.raises(MGMError) as caught:
        run_training(words(flags))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["file", "folder"])
def test_stage_2_resumes_after_a_repeated_stage_1(
    stage1_flags, stage2_flags, tmp_path, caplog, start
):
    first = stage1_flags | SAVING | {"output_dir": tmp_path / "one"}
    run_training(words(first))
    parts = {} if start == "folder" else {"pretrain_mm_mlp_adapter": tmp_path / "one"}
    if parts:
        parts |= {name: first[name] for name in ("vision_tower", "vision_tower_aux")}
        parts |= {"mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2}
        parts |= {"image_size_aux": 128}
    base = tmp_path / "one" if start == "folder" else first["model_name_or_path"]
    second = stage2_flags | parts | SAVING | {"model_name_or_path": base}
    second["output_dir"] = tmp_path / "two"
    run_training(words(second))
    before = contents(tmp_path / "one")
    run_training(words(first))
    assert "all 1 steps are done" in caplog.text
    assert contents(tmp_path / "one") == before
    (tmp_path / "one/config.json").unlink()  # as after a kill
    run_training(words(first))
    assert contents(tmp_path / "one").keys() == before.keys()
    for name in before.keys() - {"trainer_state.json"}:
        assert (tmp_path / "one" / name).read_bytes() == before[name], name
    (tmp_path / "one/results.json").write_text("{}")
    run_training(words(second | {"max_steps": 2}))


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_finished_run_with_save_only_model(stage2_flags, tmp_path, caplog, kind):
    flags = stage2_flags | SAVING | {"save_only_model": True, "output_dir": tmp_path / "run"}
    flags["lora_enable"] = kind == "lora"
    run_training(words(flags))
    before = contents(tmp_path / "run")
    run_training(words(flags))
    assert "already has the trained model" in caplog.text
    assert contents(tmp_path / "run") == before
    assert "optimizer.pt: is missing" in fault(flags | {"max_steps": 2})


def test_more_epochs_need_an_optimizer_state(stage2_flags, tmp_path):
    epochs = stage2_flags | {"save_strategy": "epoch", "save_only_model": True}
    epochs["output_dir"] = tmp_path
    run_training(words(epochs))
    run_training(words(epochs))
    assert "optimizer.pt: is missing" in fault(epochs | {"num_train_epochs": 2})


def test_other_model_in_the_output_is_replaced(stage2_flags, tmp_path):
    flags = stage2_flags | SAVING | {"output_dir": tmp_path}
    run_training(words(flags))
    before = contents(tmp_path)
    shutil.copyfile(
        Path(str(flags["model_name_or_path"])) / "model.safetensors", tmp_path / "model.safetensors"
    )
    (tmp_path / "mm_projector.bin").write_bytes(b"")
    (tmp_path / "tokenizer.json").unlink()
    run_training(words(flags))
    again = contents(tmp_path)
    assert again.keys() == before.keys()
    assert all(again[name] == before[name] for name in again.keys() - {"trainer_state.json"})


def test_adapter_with_a_moved_base(stage2_flags, tmp_path):
    base = shutil.copytree(Path(str(stage2_flags["model_name_or_path"])), tmp_path / "base")
    flags = stage2_flags | SAVING | {"lora_enable": True, "output_dir": tmp_path / "run"}
    run_training(words(flags | {"model_name_or_path": base}))
    base.rename(tmp_path / "moved")
    run_training(words(flags | {"model_name_or_path": tmp_path / "moved"}))
    load_model(tmp_path / "run")


@pytest.mark.slow
def test_kind_of_high_resolution_tower(stage2_flags, tmp_path):
    for given, other in ((None, "none"), ("none", None)):
        flags = stage2_flags | SAVING | {"output_dir": tmp_path / str(given)}
        run_training(words(flags | {"vision_tower_aux": given}))
        message = fault(flags | {"vision_tower_aux": other, "max_steps": 2})
        assert "--vision_tower_aux was " in message
        run_training(words(flags | {"vision_tower_aux": given, "max_steps": 2}))


def test_start_from_an_own_checkpoint(stage2_flags, tmp_path):
    flags = stage2_flags | SAVING | {"output_dir": tmp_path}
    run_training(words(flags))
    own = {"model_name_or_path": tmp_path / "checkpoint-1", "resume_from_checkpoint": False}
    assert "--model_name_or_path " in fault(flags | own)
    assert "lies in a checkpoint of --output_dir" in fault(flags | own)
    assert not (tmp_path / "earlier_run_1").exists()
    run_training(words(flags | own | {"output_dir": tmp_path / "other"}))


def test_every_image_is_compared(stage2_flags, data, tmp_path):
    folder = shutil.copytree(data.parent, tmp_path / "data")
    flags = stage2_flags | SAVING | {"output_dir": tmp_path / "run"}
    two = (folder / "data.json").read_text().replace('"0.png", "1.png"', '"0.png", "other.png"')
    (folder / "data.json").write_text(two)
    Image.new("RGB", (24, 24), "red").save(folder / "other.png")
    flags["data_path"] = folder / "data.json"
    run_training(words(flags))
    Image.new("RGB", (24, 24), "blue").save(folder / "other.png")
    assert "images of --data_path was " in fault(flags)


def test_output_folder_in_another_spelling(stage2_flags, tmp_path, monkeypatch):
    base = Path(str(stage2_flags["model_name_or_path"]))
    shutil.copytree(base, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-*"))
    monkeypatch.chdir(tmp_path)
    flags = stage2_flags | SAVING | {"model_name_or_path": tmp_path / "run", "output_dir": "run"}
    run_training(words(flags))
    run_training(words(flags | {"model_name_or_path": "./run", "max_steps": 2}))


def test_user_folder_is_not_deleted(stage2_flags, tmp_path):
    mine = tmp_path / "model.safetensors"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    message = fault(stage2_flags | SAVING | {"output_dir": tmp_path})
    assert f"{mine}: is a folder" in message
    assert (mine / "notes.txt").exists()


def test_output_folder_as_checkpoint(stage2_flags, tmp_path):
    flags = stage2_flags | SAVING | {"output_dir": tmp_path}
    run_training(words(flags))
    message = fault(flags | {"resume_from_checkpoint": tmp_path})
    assert f"give its last checkpoint, {tmp_path}/checkpoint-1" in message
    assert "--max_steps 0: give a number from 1" in fault(flags | {"max_steps": 0})


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    ("settings", "more"),
    [
        ("zero2", {}),
        ("zero2", {"bf16": True}),
        ("zero2", {"lora_enable": True, "lora_r": 4}),
        ("zero3", {"bf16": True}),
        (None, {"fsdp": "full_shard"}),
    ],
)
def test_several_processes(stage2_flags, tmp_path, processes, settings, more):
    if processes == 1 and settings is None:
        pytest.skip("weights are divided among several")
    flags = stage2_flags | SAVING | more | {"output_dir": tmp_path / "run"}
    flags |= {"per_device_train_batch_size": 1}
    if settings is not None:
        pytest.importorskip("deepspeed")
        flags["deepspeed"] = zero_settings(settings, tmp_path)
    done = train(flags, processes, launcher=processes > 1)
    assert done.returncode == 0, done.stderr[-3000:]
    before = contents(tmp_path / "run")
    again = train(flags, processes, launcher=processes > 1)
    assert again.returncode == 0, again.stderr[-3000:]
    assert again.stderr.count("already has the trained model") == 1
    assert contents(tmp_path / "run") == before
    for name in ("config.json", "trainer_state.json"):  # as after a kill
        (tmp_path / "run" / name).unlink()
    again = train(flags, processes, launcher=processes > 1)
    assert again.returncode == 0, again.stderr[-3000:]
    after = contents(tmp_path / "run")
    assert all(after[name] == before[name] for name in before.keys() - {"trainer_state.json"})
    if more.get("bf16") and settings:
        weights = load_file(tmp_path / "run/model.safetensors")
        assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}

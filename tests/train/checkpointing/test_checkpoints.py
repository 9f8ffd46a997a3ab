"""Checkpoints in an output folder: those of the run, of earlier runs, and damaged ones."""

from pathlib import Path

import pytest

from mgm.errors import MGMError
from mgm.train.checkpointing.checkpoints import (
    checkpoint_to_resume,
    prepare_output_dir,
    set_aside_earlier_runs,
)


@pytest.mark.parametrize("flag", [None, "true", "checkpoint-10"])
def test_last_complete_checkpoint(tmp_path, monkeypatch, flag) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("checkpoint-9", "checkpoint-10"):
        Path(name).mkdir()
        Path(name, "trainer_state.json").write_text("{}")
    Path("checkpoint-11").mkdir()  # as after a kill during saving
    assert checkpoint_to_resume(flag, Path()) == Path("checkpoint-10")
    assert checkpoint_to_resume("false", Path()) is None
    with pytest.raises(MGMError, match=r"checkpoint-11: no complete checkpoint, lacks trainer_st"):
        checkpoint_to_resume("checkpoint-11", Path())


@pytest.fixture
def output(tmp_path) -> Path:
    """An output folder with three checkpoints, benchmark answers and a list of bad samples."""
    for step in (10, 100, 20):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(f'{{"global_step": {step}}}')
    for step in (100, 15):  # the checkpoint of the second step was deleted
        (tmp_path / f"eval/checkpoint-{step}").mkdir(parents=True)
    (tmp_path / "quarantine.jsonl").touch()
    return tmp_path


def files(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if "state" not in file.name}


@pytest.mark.parametrize(
    ("resumed", "moved"),
    [
        (None, {"checkpoint-10", "checkpoint-20", "checkpoint-100", "quarantine.jsonl"}),
        ("checkpoint-10", {"checkpoint-20", "checkpoint-100"}),
        ("../elsewhere/checkpoint-50", {"checkpoint-10", "checkpoint-20", "checkpoint-100"}),
        ("checkpoint-100", set()),
    ],
)
def test_checkpoints_of_earlier_runs_are_moved(output, resumed, moved, caplog) -> None:
    before = files(output)
    checkpoint = None if resumed is None else output / resumed
    if resumed is not None and "elsewhere" in resumed:
        checkpoint.mkdir(parents=True)
        (checkpoint / "trainer_state.json").write_text('{"global_step": 50}')
        moved = moved | {"quarantine.jsonl"}
    moved = moved | ({"eval/checkpoint-100", "eval/checkpoint-15"} if moved else set())
    set_aside_earlier_runs(output, checkpoint, ("quarantine.jsonl",))
    aside = {f"earlier_run_1/{name}" for name in moved}
    also = {"earlier_run_1", "earlier_run_1/eval"} if moved else set()
    assert files(output) == (before - moved) | aside | also
    assert all(name in caplog.text for name in moved)


def test_each_earlier_run_has_its_folder(output) -> None:
    set_aside_earlier_runs(output, None)
    (output / "checkpoint-7").mkdir()
    set_aside_earlier_runs(output, None)
    assert (output / "earlier_run_1/checkpoint-100/trainer_state.json").is_file()
    assert (output / "earlier_run_2/checkpoint-7").is_dir()


def test_checkpoint_as_output_folder(tmp_path) -> None:
    (tmp_path / "rng_state_0.pth").touch()
    with pytest.raises(MGMError, match=r"is a checkpoint of a run, with its rng_state_0.pth"):
        prepare_output_dir(tmp_path)


@pytest.mark.parametrize("state", ["part", "complete", "moving"])
def test_interrupted_replacement_is_finished(tmp_path, state) -> None:
    left = tmp_path / f".model.0123abcd.{state}"
    left.mkdir()
    for name in ("config.json", "model.safetensors"):
        (left / name).write_text("new")
    (tmp_path / "adapter_config.json").write_text("old")
    prepare_output_dir(tmp_path)
    names = {file.name for file in tmp_path.iterdir()}
    expected = {
        "part": {"adapter_config.json"},
        "complete": {"config.json", "model.safetensors"},
        "moving": {"adapter_config.json", "config.json", "model.safetensors"},
    }
    assert names == expected[state]


def test_folder_instead_of_a_file(tmp_path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(MGMError, match=r"config\.json: is a folder, but the model has a file"):
        prepare_output_dir(tmp_path)
    assert (tmp_path / "config.json").is_dir()

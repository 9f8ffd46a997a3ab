"""Saving into a folder that holds other files, and being killed while doing it."""

from pathlib import Path

import pytest
import torch

from mgm.errors import MGMError
from mgm.train.checkpointing.checkpoints import checkpoint_to_resume, complete_files

OF_USER = ("adapter.safetensors", "my.safetensors.index.json", "notes.bin", "models.txt")
OF_EARLIER_MODEL = (
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "mm_projector.bin",
)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Holds an earlier model in shards, its stage-1 file, and files of the user."""
    for name in (*OF_USER, *OF_EARLIER_MODEL, "config.json"):
        (tmp_path / name).write_text("old")
    return tmp_path


def save(folder: Path, *names: str) -> None:
    with complete_files(folder) as part:
        for name in names:
            (part / name).write_text("new")


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_the_users_files_stay_and_the_earlier_model_goes(folder) -> None:
    save(folder, "model.safetensors", "config.json")
    assert names(folder) == {*OF_USER, "model.safetensors", "config.json"}
    assert {(folder / name).read_text() for name in OF_USER} == {"old"}
    assert (folder / "config.json").read_text() == "new"


def test_shards_replace_an_earlier_single_file(folder) -> None:
    save(folder, "model.safetensors", "config.json")
    save(folder, *OF_EARLIER_MODEL, "config.json")
    assert names(folder) == {*OF_USER, *OF_EARLIER_MODEL, "config.json"}


@pytest.mark.parametrize("moved", range(3))
def test_killed_between_two_files_it_is_no_model(folder, monkeypatch, moved) -> None:
    whole, done = Path.replace, []

    def replace(self: Path, target: Path) -> Path:
        if len(done) == moved:
            raise KeyboardInterrupt
        done.append(target.name)
        return whole(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        save(folder, "config.json", "generation_config.json", "model.safetensors")
    assert "config.json" not in names(folder)
    assert len(done) == moved


def test_a_model_that_cannot_be_written_leaves_the_earlier_one(folder) -> None:
    before = names(folder)
    with pytest.raises(MGMError, match="could not be written"), complete_files(folder) as part:
        (part / "no such folder" / "config.json").write_text("new")
    assert names(folder) == before


@pytest.mark.parametrize("asked", [None, "checkpoint-10"])
@pytest.mark.parametrize("damaged", ["trainer_state.json", "optimizer.pt", "rng_state.pth"])
def test_a_damaged_checkpoint_is_named(tmp_path, monkeypatch, asked, damaged) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = Path("checkpoint-10")
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text('{"global_step": 10}')
    for name in ("optimizer.pt", "rng_state.pth"):
        torch.save({"state": torch.ones(100)}, checkpoint / name)
    assert checkpoint_to_resume(asked, Path()) == checkpoint
    content = (checkpoint / damaged).read_bytes()
    (checkpoint / damaged).write_bytes(content[: len(content) // 2])
    with pytest.raises(MGMError, match=f"checkpoint-10/{damaged}: is .*copy it again"):
        checkpoint_to_resume(asked, Path())

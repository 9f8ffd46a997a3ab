"""Saving into a folder that holds other files, and being killed while doing it."""

from pathlib import Path

import pytest

from mgm.errors import MGMError
from mgm.train.checkpoints import complete_files

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

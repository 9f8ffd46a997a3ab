import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from mgm.atomic import atomic_file, atomic_folder
from mgm.errors import MGMError


def test_folder_appears_when_complete(tmp_path):
    final = tmp_path / "model"
    with atomic_folder(final) as part:
        (part / "old").write_text("old")
        assert not final.exists()
    with atomic_folder(final) as part:
        (part / "new").write_text("new")
        assert (final / "old").is_file()
    assert [file.name for file in final.iterdir()] == ["new"]
    assert [folder.name for folder in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("I/O")])
def test_full_disk_leaves_the_old_files(tmp_path, error):
    final = tmp_path / "model"
    with atomic_folder(final) as part:
        (part / "old").write_text("old")
    with pytest.raises(MGMError, match="could not be written") as caught, atomic_folder(final):
        raise error
    assert str(final) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(MGMError, match="could not be written"), atomic_file(final / "new"):
        raise error
    assert [file.name for file in final.iterdir()] == ["old"]
    assert [folder.name for folder in tmp_path.iterdir()] == ["model"]


def test_other_errors_are_not_changed(tmp_path):
    with pytest.raises(KeyError), atomic_folder(tmp_path / "model"):
        raise KeyError("name")
    assert not list(tmp_path.iterdir())


def test_permissions_follow_the_folder(tmp_path):
    with atomic_folder(tmp_path / "model") as part:
        save_file({"a": torch.zeros(2)}, part / "model.safetensors")
    folder = tmp_path / "model"
    expected = folder.stat().st_mode & 0o666
    assert (folder / "model.safetensors").stat().st_mode & 0o666 == expected

import pytest
from PIL import Image

from tests.tiny_model import build


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """The folder of a tiny random model."""
    return build(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def image_files(tmp_path):
    """Two image files."""
    files = [tmp_path / f"{name}.png" for name in ("red", "blue")]
    for file in files:
        Image.new("RGB", (40, 30), file.stem).save(file)
    return files

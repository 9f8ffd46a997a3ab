import pytest
from PIL import Image

import mgm
from tests.tiny_model import build


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """The folder of a tiny random model."""
    return build(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def engine(tiny_folder):
    """An engine of that model."""
    return mgm.load(tiny_folder, device="cpu")


@pytest.fixture(scope="session")
def pictures():
    """Images of different sizes that give different outputs of the tiny model."""
    return [Image.new("RGB", (50, 30), "red"), Image.radial_gradient("L").convert("RGB")]

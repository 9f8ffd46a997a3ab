"""Missing images are found before training; samples have their index."""

import json

import pytest
from PIL import Image

from mgm.data.datasets.training_dataset import TrainingDataset
from mgm.data.image_processing_mgm import MGMImageProcessor
from mgm.data.images import missing_files
from mgm.data.processing_mgm import MGMProcessor
from mgm.errors import MGMError
from tests.train.conftest import tiny_tokenizer


@pytest.fixture
def made(tmp_path):
    """Make a data set of samples with these image names, which need not exist."""
    processor = MGMProcessor(MGMImageProcessor(28, 64), tiny_tokenizer(), "nano")

    def make(*samples: tuple[str, ...]) -> TrainingDataset:
        path = tmp_path / "data.json"
        content = []
        for images in samples:
            question = {"from": "human", "value": "<image>\n" * len(images) + "Which colour?"}
            turns = [question, {"from": "gpt", "value": "red"}]
            content.append({"image": list(images), "conversations": turns})
        path.write_text(json.dumps(content))
        return TrainingDataset(path, processor)

    (tmp_path / "deep").mkdir()
    for name in ("a.png", "deep/b.png"):
        Image.new("RGB", (9, 8), "red").save(tmp_path / name)
    return make


def test_samples_have_their_index(made, tmp_path) -> None:
    dataset = made(("a.png",), (), ("deep/b.png", str(tmp_path / "a.png"), "deep/../a.png"))
    assert [int(dataset[index]["index"]) for index in range(3)] == [0, 1, 2]
    assert len(dataset[2]["pixel_values_aux"]) == 3


def test_missing_images_are_errors_before_training(made, tmp_path) -> None:
    with pytest.raises(MGMError) as fault:
        made(("a.png",), ("a.png", "gone.png"), (), ("nowhere/c.png",), ("deep/b.png",))
    assert str(fault.value) == (
        f"{tmp_path}/data.json: sample 1, image 2 of 2: {tmp_path}/gone.png: there is no "
        "such file (2 of all 5 are missing); check the path and --image_folder"
    )


def test_unreadable_folder_is_not_a_missing_image(made, monkeypatch) -> None:
    monkeypatch.setattr(missing_files, "_regular_files", lambda folder: frozenset())
    assert len(made(("a.png",), ("deep/b.png",))) == 2

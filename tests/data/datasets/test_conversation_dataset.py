import pytest
import torch
from PIL import Image

from mgm.data.datasets.conversation_dataset import ConversationDataset
from mgm.data.image_processing_mgm import MGMImageProcessor
from mgm.data.processing_mgm import MGMProcessor
from mgm.data.text.tokenizer import load_tokenizer
from mgm.errors import MGMError
from mgm.model.labels import IGNORE_INDEX
from tests.golden_files import golden, golden_json

TEXT = [{"from": "human", "value": "what is this?"}, {"from": "gpt", "value": "a cat."}]
ONE = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "red"}]
TWO = [{"from": "human", "value": "<image> or <image>?"}, {"from": "gpt", "value": "blue"}]


@pytest.fixture
def dataset(write_samples, processor):
    samples = [
        {"id": 0, "image": "red.png", "conversations": ONE, "source": "drawn"},
        {"id": 1, "conversations": TEXT},
        {"id": 2, "image": ["red.png", "blue.png"], "conversations": TWO},
    ]
    return ConversationDataset(write_samples(samples), processor)


def learned(sample, processor):
    return processor.decode([label for label in sample["labels"].tolist() if label != IGNORE_INDEX])


def test_samples(dataset, processor, tiny):
    one, text, two = (dataset[index] for index in range(len(dataset)))
    assert learned(one, processor) == "red<|end|>"
    assert learned(text, processor) == "a cat.<|end|>"
    assert (one["input_ids"] == processor.image_token_id).sum() == 4
    assert one["pixel_values_aux"].shape == (1, 3, 64, 64)
    assert one["pixel_values_aux"].dtype == torch.uint8
    assert set(text) == {"input_ids", "labels"}
    assert (two["input_ids"] == processor.image_token_id).sum() == 8
    expected = processor(images=[tiny / "red.png", tiny / "blue.png"], do_normalize=False)
    assert torch.equal(two["pixel_values_aux"], expected["pixel_values_aux"])


def test_exif_orientation_is_ignored(write_samples, processor, tiny):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.linear_gradient("L").resize((60, 40)).save(tiny / "photo.jpg", exif=exif)
    samples = [{"id": 0, "image": "photo.jpg", "conversations": ONE}]
    path = write_samples(samples)

    def expected(orientation):
        views = processor.image_processor(
            tiny / "photo.jpg", do_normalize=False, orientation=orientation
        )
        return views["pixel_values_aux"]

    assert not torch.equal(expected("stored"), expected("upright"))
    pixels = ConversationDataset(path, processor)[0]["pixel_values_aux"]
    assert torch.equal(pixels, expected("stored"))
    upright = ConversationDataset(path, processor, orientation="upright")
    assert torch.equal(upright[0]["pixel_values_aux"], expected("upright"))


def test_training_text_starts_with_the_prompt(dataset, processor):
    prompt = processor.encode(processor.prompt("<image>\nwhat?"))
    sample = dataset[0]["input_ids"].tolist()
    assert sample[: len(prompt)] == prompt


def test_lengths(dataset):
    assert dataset.modality_lengths == [3, -5, 4 + 4]


def test_images_are_opened_lazily(write_samples, processor, tiny):
    (tiny / "cut.png").write_bytes((tiny / "red.png").read_bytes()[:40])
    samples = [
        {"image": ["red.png", "none.png"], "conversations": TWO},
        {"image": "cut.png", "conversations": ONE},
    ]
    path = write_samples(samples)
    dataset = ConversationDataset(path, processor)
    with pytest.raises(MGMError) as caught:
        dataset[0]
    assert str(caught.value).startswith(f"{path}: sample 0, image 2 of 2: {tiny / 'none.png'}: ")
    with pytest.raises(MGMError, match=r"sample 1, image 1 of 1: .*cut.png: is"):
        dataset[-1]


def test_image_folder(tmp_path, write_samples, processor, tiny):
    path = tmp_path / "elsewhere"
    path.mkdir()
    path = write_samples([{"image": "red.png", "conversations": ONE}]).rename(path / "data.json")
    assert "pixel_values_aux" in ConversationDataset(path, processor, image_folder=tiny)[0]


def test_caption_template(write_samples, processor):
    path = write_samples([{"image": "red.png", "conversations": ONE}])
    sample = ConversationDataset(path, processor, conversation="plain")[0]
    assert learned(sample, processor) == "red\n"
    assert len(sample["input_ids"]) == 4 + 2


def published(batches):
    """Rows of the published training batches, with one id per image."""
    for batch in batches:
        yield from zip(batch["input_ids"], batch["labels"], strict=True)


def test_published_training_data():
    """Ids and labels of the samples of the published optimizer steps."""
    folder = golden("tokenizers/vicuna")
    # One position per image, as in the golden records.
    image_processor = MGMImageProcessor(14, 64)
    processor = MGMProcessor(image_processor, load_tokenizer(folder), "v1", image_token_id=-200)
    dataset = ConversationDataset(
        golden("train/train_data.json"), processor, image_folder=golden("images")
    )
    training = golden_json("train/train.json")["stage2"]
    rows = list(published(training["batches"]))
    assert len(rows) == len(dataset)
    for index, (ids, labels) in zip(training["sample_order"], rows, strict=True):
        own = dataset.encode(index)
        assert own[0] == ids[: len(own[0])]
        assert own[1] == labels[: len(own[1])]
        assert set(labels[len(own[1]) :]) <= {IGNORE_INDEX}

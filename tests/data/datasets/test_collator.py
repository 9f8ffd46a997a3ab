import numpy as np
import pytest
import torch

from mgm.data.datasets.collator import MIN_UNSUPERVISED, Collator
from mgm.data.sources.formats.record import parse_sample
from mgm.data.text.encoding import encode
from mgm.data.text.templates import get_template
from mgm.data.text.tokenizer import load_tokenizer
from mgm.errors import MGMError
from mgm.model.labels import IGNORE_INDEX
from tests.golden_files import golden, golden_json

IMAGE = 99


def sample(ids, images=0, mark=0.0):
    ids = torch.tensor(ids)
    tensors = {"input_ids": ids, "labels": torch.where(ids == IMAGE, IGNORE_INDEX, ids)}
    if images:
        tensors["pixel_values"] = torch.full((images, 1, 3, 2, 2), mark)
        tensors["pixel_values_aux"] = torch.full((images, 3, 4, 4), mark)
    return tensors


def test_padding_is_masked_by_length():
    batch = Collator(0, IMAGE, 2)([sample([5, 0, 6]), sample([7])])
    assert batch["input_ids"].tolist() == [[5, 0, 6], [7, 0, 0]]
    assert batch["labels"].tolist() == [[5, 0, 6], [7, IGNORE_INDEX, IGNORE_INDEX]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert set(batch) == {"input_ids", "labels", "attention_mask"}
    left = Collator(0, IMAGE, 2, padding_side="left")([sample([5, 0, 6]), sample([7])])
    assert left["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]


def test_images_of_all_samples_in_order():
    samples = [sample([IMAGE, IMAGE, 1], 1, 1.0), sample([2]), sample([IMAGE] * 4, 2, 2.0)]
    batch = Collator(0, IMAGE, 2)(samples)
    assert batch["pixel_values"].shape == (3, 1, 3, 2, 2)
    assert batch["pixel_values"][:, 0, 0, 0, 0].tolist() == [1, 2, 2]
    assert batch["pixel_values_aux"][:, 0, 0, 0].tolist() == [1, 2, 2]


def test_text_is_truncated_at_the_limit():
    batch = Collator(0, IMAGE, 2, max_length=4)([sample([IMAGE, IMAGE, 1, 2, 3], 1)])
    assert batch["input_ids"].tolist() == [[IMAGE, IMAGE, 1, 2]]
    assert batch["pixel_values"].shape[0] == 1


def test_images_are_never_truncated(caplog):
    long = sample([1, IMAGE, IMAGE, 2, IMAGE, IMAGE, 3], 2)
    batch = Collator(0, IMAGE, 2, max_length=5)([long])
    assert batch["input_ids"].tolist() == [[1, IMAGE, IMAGE, 2]]
    assert batch["pixel_values"].shape[0] == batch["pixel_values_aux"].shape[0] == 1
    assert "image 2 of 2 does not fit" in caplog.text
    none = Collator(0, IMAGE, 2, max_length=3)([sample([1, 2, IMAGE, IMAGE], 1)])
    assert none["input_ids"].tolist() == [[1, 2]]
    assert "pixel_values" not in none


def test_collator_of_a_processor(processor):
    collator = Collator.of(processor, max_length=100)
    assert collator.image_token_id == processor.image_token_id
    assert collator.image_tokens_per_image == 4
    assert collator.pad_token_id == 0


def encoded(messages, tokenizer, image, per_image, version="v1"):
    markers = sum(message["value"].count("<image>") for message in messages)
    checked = parse_sample({"conversations": messages, "image": ["x"] * markers}, "here")
    ids, labels = encode(checked.segments(get_template(version)), tokenizer, image, per_image)
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}


def test_batches_equal_published_batches():
    record = golden_json("text/collator_samplers.json")["collator"]
    conversations = golden_json("text/preprocess.json")["conversations"]
    tokenizer = load_tokenizer(golden(f"tokenizers/{record['tokenizer']}"))
    samples = [encoded(conversations[name], tokenizer, -200, 1) for name in record["convs"]]
    for limit, expected in record["by_model_max_length"].items():
        batch = Collator(tokenizer.pad_token_id, -200, 1, int(limit))(samples)
        assert batch["labels"].tolist() == expected["labels"], limit
        assert batch["input_ids"].tolist() == expected["input_ids"], limit
        assert batch["attention_mask"].tolist() == np.array(expected["attention_mask"]).tolist()


def test_labels_of_a_truncated_batch_equal_published():
    """The published code truncates within the second image of the last sample."""
    expected = np.load(golden("models/mgm_gemma_hd_mixed.npz"))["merged_labels"]
    case = golden_json("models/manifest.json")["mgm_gemma_hd"]["cases"]["mixed"]
    tokenizer = load_tokenizer(golden("tokenizers/gemma"))
    samples = [encoded(one, tokenizer, 760, 2880, "gemma") for one in case["conversations"]]
    batch = Collator(0, 760, 2880, max_length=4096)(samples)
    length = batch["labels"].shape[1]
    assert length < 4096
    assert (batch["input_ids"][2] == 760).sum() == 2880
    assert np.array_equal(batch["labels"].numpy(), expected[:, :length])
    assert (expected[:, length:] == IGNORE_INDEX).all()


def labelled(labels, index, images=0):
    """A sample with one position per image, then text with these labels."""
    ids = [IMAGE] * images + [7] * len(labels)
    made = sample(ids, images) | {"index": torch.tensor(index)}
    return made | {"labels": torch.tensor([IGNORE_INDEX] * images + labels)}


def test_truncation_is_logged_once_and_counted(caplog):
    collator = Collator(0, IMAGE, 1, max_length=3)
    long, short = [IGNORE_INDEX, IGNORE_INDEX, 5, 6], [IGNORE_INDEX, 5]
    batch = collator([labelled(short, 0), labelled(long, 1), labelled(long, 2, images=1)])
    assert set(batch) == {
        *("input_ids", "labels", "attention_mask", "index"),
        *("pixel_values", "pixel_values_aux"),
    }
    collator([sample([1, 2, 3, IMAGE, 4], 1), labelled(long, 3, images=1)])
    assert [message.split(" (")[0] for message in caplog.messages] == [
        "sample 1 is cut from 4 positions to 3",
        "sample 2 has no labels left",
        "a sample is cut from 5 positions to 3: image 1 of 1 does not fit and is left out with "
        "what follows it",
    ]
    assert "model_max_length is 3" in caplog.messages[0]
    caplog.clear()
    collator.report()
    assert caplog.messages == [
        "3 of 5 samples were cut at model_max_length",
        "1 of 5 samples lost an image to model_max_length",
        "2 of 5 samples had no label left and taught nothing; allow a larger model_max_length",
    ]


def test_no_warning_without_truncated_labels(caplog):
    collator = Collator(0, IMAGE, 1, max_length=3)
    collator([labelled([IGNORE_INDEX, 5], 0)])
    collator.report()
    Collator(0, IMAGE, 1).report()
    assert caplog.messages == []


def test_run_without_labels_is_an_error():
    collator = Collator(0, IMAGE, 1, max_length=3)
    nothing = labelled([IGNORE_INDEX] * 4, 0)
    collator([nothing] * (MIN_UNSUPERVISED - 1))
    with pytest.raises(MGMError, match="none of 64 samples has a label within model_max_length 3"):
        collator([nothing])
    hopeful = Collator(0, IMAGE, 1, max_length=3)
    hopeful([labelled([IGNORE_INDEX, 5], 0)])
    hopeful([nothing] * MIN_UNSUPERVISED)
    short = Collator(0, IMAGE, 1, max_length=3)
    short([nothing])
    with pytest.raises(MGMError, match="none of 1 samples"):
        short.report()

import copy
import json

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor

from mgm.auto import register
from mgm.data.image_processing_mgm import MGMImageProcessor
from mgm.data.processing_mgm import MGMProcessor
from mgm.data.text.tokenizer import load_tokenizer
from mgm.errors import MGMError
from tests.golden_files import golden, golden_json

IMAGE = Image.new("RGB", (30, 20), "red")


def test_markers_become_image_positions(processor):
    prompt = processor.prompt("what is this?", images=1)
    batch = processor(text=prompt, images=IMAGE)
    ids = batch["input_ids"][0].tolist()
    assert ids.count(processor.image_token_id) == 4 == processor.image_tokens_per_image
    text = [token for token in ids if token != processor.image_token_id]
    assert processor.decode(text) == prompt.replace("<image>", "")
    assert batch["pixel_values"].shape == (1, 1, 3, 28, 28)
    assert batch["pixel_values_aux"].shape == (1, 3, 64, 64)
    assert batch["attention_mask"].tolist() == [[1] * len(ids)]
    assert set(batch) == set(processor.model_input_names)


def test_text_only_and_images_only(processor):
    text = processor(text="what is this?")
    assert set(text) == {"input_ids", "attention_mask"}
    images = processor(images=[IMAGE, IMAGE])
    assert set(images) == {"pixel_values", "pixel_values_aux"}
    assert images["pixel_values"].shape[0] == 2
    for options in ({"do_normalize": False}, {"images_kwargs": {"do_normalize": False}}):
        raw = processor(images=[IMAGE], text="<image>", **options)
        assert set(raw) == {"input_ids", "attention_mask", "pixel_values_aux"}
        assert raw["pixel_values_aux"].dtype == torch.uint8
    assert processor(images=IMAGE, images_kwargs={"do_normalize": True})["pixel_values"].ndim == 5


@pytest.mark.parametrize("side", ["left", "right"])
def test_batch(processor, side):
    texts = ["<image>what", "what is this?", "<image> and <image>"]
    batch = processor(text=texts, images=[[IMAGE], [], [IMAGE, IMAGE]], padding_side=side)
    for text, ids, mask in zip(texts, batch["input_ids"], batch["attention_mask"], strict=True):
        assert ids[mask.bool()].tolist() == processor.encode(text)
        assert mask.sum() == len(processor.encode(text))
        edge = mask[-1] if side == "left" else mask[0]
        assert edge == 1
    assert batch["pixel_values"].shape[0] == 3
    flat = processor(text=texts, images=[IMAGE] * 3, padding_side=side)
    assert torch.equal(flat["input_ids"], batch["input_ids"])


def test_without_padding(processor):
    lists = processor(text=["what", "is this"], padding=False, return_tensors=None)
    assert [len(ids) for ids in lists["input_ids"]] == [len(m) for m in lists["attention_mask"]]
    with pytest.raises(MGMError, match="set padding=True"):
        processor(text=["what", "is this"], padding=False)
    with pytest.raises(MGMError, match="'up'; choose left or right"):
        processor(text=["what"], padding_side="up")


def test_options_of_other_processors(processor):
    texts = ["<image>what", "is this sure"]
    expected = processor(text=texts, images=IMAGE)
    arrays = processor(text=texts, images=np.asarray(IMAGE), return_tensors="np")
    for name, tensor in expected.items():
        assert isinstance(arrays[name], np.ndarray)
        assert np.array_equal(arrays[name], tensor.numpy())
    longest = processor(text=texts, images=IMAGE, padding="longest", truncation=None)
    assert torch.equal(longest["input_ids"], expected["input_ids"])
    lists = processor(text=["what", "is this"], padding="do_not_pad", return_tensors=None)
    assert len({len(ids) for ids in lists["input_ids"]}) == 2
    wide = processor(text=texts, images=IMAGE, padding="max_length", max_length=20)
    assert wide["input_ids"].shape == wide["attention_mask"].shape == (2, 20)
    for index, text in enumerate(texts):
        ids, mask = wide["input_ids"][index], wide["attention_mask"][index].bool()
        assert ids[mask].tolist() == processor.encode(text)


def test_grouped_options_and_truncation(processor):
    texts = ["<image>what", "is this sure"]
    options = {"padding": "max_length", "max_length": 20, "truncation": True}
    groups = {
        "text_kwargs": options,
        "images_kwargs": {"do_pan_and_scan": False},
        "common_kwargs": {"return_tensors": "np"},
    }
    grouped = processor(text=texts, images=IMAGE, **groups)
    assert grouped["input_ids"].shape == (2, 20)
    flat = processor(text=texts, images=IMAGE, **options)
    for name, tensor in flat.items():
        assert np.array_equal(grouped[name], tensor.numpy())
    short = processor(text=texts, images=IMAGE, truncation=True, max_length=20)
    assert torch.equal(short["input_ids"], processor(text=texts, images=IMAGE)["input_ids"])


def test_padding_side(nano_tokenizer, tmp_path):
    nano_tokenizer = copy.deepcopy(nano_tokenizer)
    images = MGMImageProcessor(28, 64)
    assert MGMProcessor(images, nano_tokenizer, "nano").tokenizer.padding_side == "left"
    right = MGMProcessor(images, nano_tokenizer, "nano", padding_side="right")
    right.save_pretrained(tmp_path)
    texts = ["<image>what", "what is this?"]
    expected = right(text=texts, images=IMAGE, padding_side="right")["attention_mask"]
    assert torch.equal(right(text=texts, images=IMAGE)["attention_mask"], expected)
    again = MGMProcessor.from_pretrained(tmp_path, padding_side="left")
    assert again(text=texts, images=IMAGE)["attention_mask"].tolist() == expected.flip(1).tolist()
    with pytest.raises(MGMError, match="'up'; choose left or right"):
        MGMProcessor(images, nano_tokenizer, "nano", padding_side="up")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"return_tensors": "tf"}, "return_tensors is 'tf'; choose 'pt'"),
        ({"truncation": True, "max_length": 1}, "max_length is 1; texts are not cut"),
        (
            {"images_kwargs": {"do_pan_and_scan": True}},
            "do_pan_and_scan is True, which this processor does not support",
        ),
        ({"text_kwargs": {"padding": "longer"}}, "padding is 'longer'; choose True"),
        ({"max_length": 9}, "max_length is 9, which is allowed only with padding='max_length'"),
        ({"padding": "max_length"}, "max_length is None; give at least 2"),
        ({"padding": "max_length", "max_length": 1}, "max_length is 1; give at least 2"),
        ({"padding": "longer"}, "padding is 'longer'; choose True"),
    ],
)
def test_unsupported_options(processor, options, message):
    with pytest.raises(MGMError) as caught:
        processor(text="what ", **options)
    assert message in str(caught.value)


def test_marker_and_image_counts_must_agree(processor):
    for text, images, message in (
        ("what", [IMAGE], "the text: 0 <image> markers but 1 image;"),
        ("<image>", None, "the text: 1 <image> marker but 0 images;"),
        (["<image>", "<image>"], [IMAGE], "the texts: 2 <image> markers but 1 image;"),
        (["<image>", "what"], [[], [IMAGE]], "text 1 of 2: 1 <image> marker but 0 images;"),
    ):
        with pytest.raises(MGMError) as caught:
            processor(text=text, images=images)
        assert str(caught.value).startswith(message)
    with pytest.raises(MGMError, match="the conversation: 1 <image> marker but 2 images"):
        processor.prompt("<image> what", images=2)


def test_prompt_inserts_images_as_published(processor):
    for record in golden_json("text/cli_multi_image.json"):
        written = processor.prompt(
            "Compare them.", images=record["n_images"], conversation=record["version"]
        )
        assert written == record["prompt_after"]


def test_prompt_with_history(processor):
    first = processor.prompt("sure?", [("what?", "a cat")], images=1)
    assert first == (
        "<s><|user|><image>\nwhat?<|end|><|assistant|>a cat<|end|><|user|>sure?<|end|><|assistant|>"
    )
    later = processor.prompt("<image>this?", [("what?", "a cat")], images=1)
    assert "<|user|><image>this?" in later
    assert "Image 1:" not in later


def test_wrapped_images_in_a_prompt(nano_tokenizer):
    processor = MGMProcessor(
        MGMImageProcessor(28, 64), nano_tokenizer, "vicuna_v1", wrap_images=True
    )
    written = processor.prompt("what?", images=2)
    assert "USER: <im_start>Image 1:<image><im_end>\n<im_start>Image 2:<image><im_end>\n" in written


def test_messages(processor, tiny):
    messages = [
        {
            "role": "user",
            "content": [
                {"type": "image", "path": str(tiny / "red.png")},
                {"type": "text", "text": "what is this?"},
            ],
        }
    ]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert prompt == processor.prompt("what is this?", images=1)
    batch = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True
    )
    assert batch["input_ids"][0].tolist() == processor.encode(prompt)
    assert batch["pixel_values"].shape[0] == 1


def test_save_and_load(tmp_path, nano_tokenizer):
    image_processor = MGMImageProcessor(28, 64, 2, True, "square")
    saved = MGMProcessor(image_processor, nano_tokenizer, "nano", image_token_id=4000)
    saved.save_pretrained(tmp_path)
    register()
    for again in (MGMProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert isinstance(again, MGMProcessor)
        assert again.to_dict() == saved.to_dict()
        assert again.chat_template == saved.chat_template
        assert again.image_token_id == 4000
        assert again.image_tokens_per_image == 20
        assert again.encode("what <image>?") == saved.encode("what <image>?")
    assert isinstance(AutoImageProcessor.from_pretrained(tmp_path), MGMImageProcessor)
    other = MGMProcessor.from_pretrained(tmp_path, conversation="vicuna_v1")
    assert "ASSISTANT" in other.chat_template


@pytest.mark.parametrize(
    ("name", "conversation", "tokens"),
    [
        ("MGM-7B", "vicuna_v1", 576),
        ("MGM-7B-HD", "vicuna_v1", 2880),
        ("MGM-2B", "gemma", 576),
        ("MGM-8x7B", "mistral_instruct", 576),
    ],
)
def test_published_folder(name, conversation, tokens):
    folder = golden(f"work_dirs/MGM/{name}/tokenizer_config.json").parent
    processor = MGMProcessor.from_pretrained(folder)
    assert processor.conversation == conversation
    assert processor.image_tokens_per_image == tokens
    assert processor.image_token_id == 760
    assert processor.image_processor.image_aspect_ratio == "pad"
    assert processor.image_processor.image_size_aux == (1536 if tokens == 2880 else 768)


def test_invalid_folders(tmp_path, processor, monkeypatch):
    with pytest.raises(MGMError, match="none: no such folder"):
        MGMProcessor.from_pretrained(tmp_path / "none")
    with pytest.raises(MGMError, match=r"neither processor_config.json nor config.json"):
        MGMProcessor.from_pretrained(tmp_path)
    for content in ("{", "[]"):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(MGMError, match=str(tmp_path / "config.json")):
            MGMProcessor.from_pretrained(tmp_path)

    def unreachable(*args, **kwargs):
        raise OSError("no network\nat all")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(MGMError, match=r"some/name: no such .*no network at all\)"):
        MGMProcessor.from_pretrained("some/name")


@pytest.mark.parametrize(
    ("name", "conversation"),
    [("vicuna", "vicuna_v1"), ("gemma", "gemma"), ("llama3", "llama_3")],
)
def test_tokens_of_every_family(name, conversation):
    """A prompt's ids equal those of its text around the image, BOS first."""
    tokenizer = load_tokenizer(golden(f"tokenizers/{name}"))
    processor = MGMProcessor(MGMImageProcessor(28, 64), tokenizer, conversation)
    prompt = processor.prompt("What is it?", images=1)
    ids = processor(text=prompt, images=IMAGE)["input_ids"][0].tolist()
    assert ids[0] == tokenizer.bos_token_id
    before, after = prompt.split("<image>")
    start = ids.index(processor.image_token_id)
    assert ids[:start] == tokenizer(before).input_ids
    assert ids[start + 4 :] == tokenizer(after, add_special_tokens=False).input_ids
    json.dumps(processor.to_dict())

"""The same conversation in every format and container gives the same tensors."""

import base64
import json
from itertools import islice
from pathlib import Path

import pytest
import torch

from mgm.data.datasets.conversation_dataset import ConversationDataset
from mgm.data.datasets.streaming import Order, StreamedDataset
from mgm.data.datasets.training_dataset import TrainingDataset
from mgm.data.sources.mixture_config import MixtureSource
from mgm.errors import MGMError
from tests.data.shards import server, write_tar

ASK, ANSWER, AGAIN, MORE = "what is this?", "a red cat.", "is a dog blue?", "sure, two."


def from_value(human="human", gpt="gpt", marker="<image>\n"):
    texts = [(human, marker + ASK), (gpt, ANSWER), (human, AGAIN), (gpt, MORE)]
    return [{"from": role, "value": text} for role, text in texts]


def roles(content):
    texts = [("user", content), ("assistant", ANSWER), ("user", AGAIN), ("assistant", MORE)]
    return [{"role": role, "content": text} for role, text in texts]


def parts(**image):
    """Messages with lists of parts; tables need one type for all."""
    question = [{"type": "text", "text": ASK}]
    messages = roles([{"type": "image"} | image, *question])
    for message in messages[1:]:
        message["content"] = [{"type": "text", "text": message["content"]}]
    return messages


def data_url(file: Path) -> str:
    return f"data:image/png;base64,{encoded(file)}"


def encoded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


# Equivalent records by format; each gets the image file.
DIALECTS = {
    "llava": lambda file: {"image": file.name, "conversations": from_value()},
    "llava, list": lambda file: {"image": [file.name], "conversations": from_value()},
    "onevision": lambda file: {
        "id": "1",
        "image": {"bytes": None, "path": file.name},
        "conversations": from_value(),
        "data_source": "x",
    },
    "sharegpt": lambda file: {
        "images": [file.name],
        "conversations": from_value(marker="<image>"),
        "system": "",
        "tools": "[]",
        "videos": None,
    },
    "sharegpt without marker": lambda file: {
        "images": [file.name],
        "conversations": from_value("user", "assistant", marker=""),
    },
    "openai, text": lambda file: {"images": [file.name], "messages": roles("<image>" + ASK)},
    "openai, image beside it": lambda file: {"image": file.name, "messages": roles(ASK)},
    "roles in conversations": lambda file: {
        "images": [file.name],
        "conversations": roles("<image>\n" + ASK),
    },
    "parts": lambda file: {"images": [file.name], "messages": parts()},
    "parts with index": lambda file: {"images": [file.name], "messages": parts(index=0)},
    "parts, path": lambda file: {"messages": parts(image=file.name)},
    "parts, path key": lambda file: {"messages": parts(path=file.name)},
    "parts, absolute path": lambda file: {"messages": parts(image=str(file))},
    "parts, file URL": lambda file: {"messages": parts(image=file.as_uri())},
    "parts, image_url": lambda file: {
        "messages": parts(type="image_url", image_url={"url": data_url(file), "detail": "high"})
    },
    "parts, image_url text": lambda file: {
        "messages": parts(type="image_url", image_url=data_url(file))
    },
    "parts, input_image": lambda file: {
        "messages": parts(type="input_image", image_url=data_url(file))
    },
    "parts, base64": lambda file: {"messages": parts(base64=encoded(file))},
    "parts, source": lambda file: {
        "messages": parts(
            source={"type": "base64", "media_type": "image/png", "data": encoded(file)}
        )
    },
    "cauldron": lambda file: {
        "images": [file.name],
        "texts": [
            {"user": ASK, "assistant": ANSWER, "source": "x"},
            {"user": AGAIN, "assistant": MORE, "source": "x"},
        ],
    },
    "data URL": lambda file: {"image": data_url(file), "conversations": from_value()},
    "base64": lambda file: {"image": encoded(file), "conversations": from_value()},
    "base64 in lines": lambda file: {
        "image": base64.encodebytes(file.read_bytes()).decode(),
        "conversations": from_value(),
    },
}


def as_json(record, folder, file):
    path = folder / "data.json"
    path.write_text(json.dumps([record, record]))
    return path


def as_lines(record, folder, file, name="data.jsonl"):
    path = folder / name
    path.write_text(f"{json.dumps(record)}\n" * 2)
    return path


def as_lines_in_json(record, folder, file):
    return as_lines(record, folder, file, "lines.json")


def as_objects(record, folder, file):
    path = folder / "objects.jsonl"
    path.write_text(f"{json.dumps(record, indent=2)}\n" * 2)
    return path


def as_list_in_lines(record, folder, file):
    path = folder / "list.jsonl"
    path.write_text(json.dumps([record, record]))
    return path


def as_parquet(record, folder, file):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("datasets")
    path = folder / "data.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([record, record]), path)
    return path


def as_parquet_with_bytes(record, folder, file):
    """As on the hub: each image has its file name and bytes."""
    held = {"bytes": file.read_bytes(), "path": file.name}
    record = record | {key: held for key in ("image",) if key in record}
    record |= {key: [held] for key in ("images",) if key in record}
    return as_parquet(record, folder, file)


def as_tar(record, folder, file):
    members = [("0.json", json.dumps(record)), ("1.json", json.dumps(record))]
    return write_tar(folder / "data.tar", members)


def as_tar_with_images(record, folder, file):
    members = []
    for key in ("0", "1"):
        members += [(f"{key}.json", json.dumps(record)), (f"{key}.PNG", file.read_bytes())]
    return write_tar(folder / "images.tar", members)


WHOLE = (as_json, as_lines, as_lines_in_json, as_objects, as_list_in_lines, as_parquet)
CONTAINERS = {
    **{write.__name__: (write, False) for write in (*WHOLE, as_parquet_with_bytes)},
    **{f"{write.__name__}, streamed": (write, True) for write in (as_json, as_lines, as_parquet)},
    **{f"{write.__name__}, streamed": (write, True) for write in (as_tar, as_tar_with_images)},
}


def items(path, folder, processor, streamed):
    if not streamed:
        return list(ConversationDataset(path, processor, folder))
    order = Order(seed=0, batch_size=1)
    stream = StreamedDataset(str(path), [MixtureSource(str(path))], processor, order, str(folder))
    return [item for item, _ in islice(stream, 2)]


@pytest.fixture
def expected(tiny, processor, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("mgm.data.datasets.stream_order.MIN_BLOCK_SAMPLES", 2)
    record = {"image": "red.png", "conversations": from_value()}
    return items(as_json(record, tiny, None), tiny, processor, False)[0]


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_format_in_every_container(container, tiny, processor, expected, caplog):
    write, streamed = CONTAINERS[container]
    file = tiny / "red.png"
    for name, record_of in DIALECTS.items():
        record = record_of(file)
        by_name = "red.png" in str(record) and "file://" not in str(record)
        if write is as_tar_with_images and not by_name:
            continue  # the image would be stored twice
        if write is as_parquet_with_bytes and not (by_name and {"image", "images"} & record.keys()):
            continue
        both = items(write(record, tiny, file), tiny, processor, streamed)
        assert len(both) == 2, name
        for item in both:
            for key, value in expected.items():
                assert torch.equal(item[key], value), (name, key)


def interleaved(*content):
    return [{"role": "user", "content": list(content)}, {"role": "assistant", "content": "one"}]


TEXTS = [{"type": "text", "text": text} for text in ("compare", "is", "what?")]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("images_in", ["list", "parts", "index"])
def test_parts_keep_their_order(images_in, streamed, tiny, processor, expected):
    """Text, image, text, image, text: order of ids, labels and images."""
    images = [{"type": "image"}, {"type": "image"}]
    record = {"images": ["red.png", "blue.png"]}
    if images_in == "parts":
        record, images = {}, [{"type": "image", "image": name} for name in record["images"]]
    if images_in == "index":
        record, images = (
            {"images": ["blue.png", "red.png"]},
            [
                {"type": "image", "index": 1},
                {"type": "image", "index": 0},
            ],
        )
    content = [TEXTS[0], images[0], TEXTS[1], images[1], TEXTS[2]]
    record["messages"] = interleaved(*content)
    path = as_lines(record, tiny, None)
    item = items(path, tiny, processor, streamed)[0]
    mark = processor.image_token_id
    span = processor.image_tokens_per_image
    tokens = processor.tokenizer
    text = "".join(
        "<i>" if token == mark else tokens.decode([token]) for token in item["input_ids"].tolist()
    )
    image = "<i>" * span
    assert f"<|user|>compare\n{image}\nis\n{image}\nwhat?<|end|>" in text
    single = items(
        as_lines({"image": "red.png", "conversations": from_value()}, tiny, None),
        tiny,
        processor,
        False,
    )
    assert torch.equal(item["pixel_values_aux"][0], single[0]["pixel_values_aux"][0])
    assert not torch.equal(item["pixel_values_aux"][1], single[0]["pixel_values_aux"][0])
    learned = [t for t in item["labels"].tolist() if t != -100]
    assert tokens.decode(learned) == "one<|end|>"


def test_images_by_url(tiny, processor, expected):
    with server(tiny) as address:
        record = {"messages": parts(type="image_url", image_url={"url": f"{address}/red.png"})}
        item = TrainingDataset(as_lines(record, tiny, None), processor, tiny)[0]
        assert all(torch.equal(item[key], value) for key, value in expected.items())
        record["messages"] = parts(image=f"{address}/none.png")
        with pytest.raises(MGMError, match=r"sample 0, image 1 of 1: http.*answered 404"):
            TrainingDataset(as_lines(record, tiny, None), processor, tiny)[0]


def test_image_folder_is_a_file(tiny, processor):
    path = as_json({"image": "red.png", "conversations": from_value()}, tiny, None)
    with pytest.raises(MGMError, match=r"red\.png: is a file; --image_folder names a folder"):
        ConversationDataset(path, processor, tiny / "red.png")

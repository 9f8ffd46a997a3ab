"""Unsupported fields are errors that name them; irrelevant ones are ignored."""

import pytest

from mgm.data.sources.formats.record import parse_sample
from mgm.data.sources.sample import SampleError

ASKS = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a cat"}]
TEXT = [{"from": "human", "value": "what?"}, {"from": "gpt", "value": "a cat"}]


def asks(text):
    return {"conversations": [TEXT[0] | {"value": text}, TEXT[1]]}


def messages(*fields, **answer):
    question = {"role": "user", "content": "what?"}
    return {"messages": [question | dict(fields), {"role": "assistant", "content": "a"} | answer]}


def turns(*names):
    return {"conversations": [{"from": name, "value": "x"} for name in names]}


@pytest.mark.parametrize(
    "field",
    ["video", "videos", "Video", "audio", "audios", "mp4", "wav", "left.mp4", "video_path",
     "videoUrls", "chosen", "rejected", "rejected_response"],
)  # fmt: skip
@pytest.mark.parametrize("value", ["a", ["a"], [{"name": "a"}], {"bytes": b"a", "path": None}])
def test_fields(field, value):
    record = {"image": "a.png", "conversations": ASKS}
    with pytest.raises(SampleError, match=rf"^f\.json: sample 3: field '{field}'") as caught:
        parse_sample(record | {field: value}, "f.json: sample 3")
    assert caught.value.kind == "unsupported"
    for empty in (None, "", "[]", [], {}, [None], {"bytes": None, "path": None}, False):
        assert parse_sample(record | {field: empty}, "") == parse_sample(record, "")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"conversations": TEXT, "kto_tag": False}, "field 'kto_tag'"),
        *(({"conversations": TEXT, name: '[{"name": "f"}]'}, f"field '{name}' has tool definitions")
          for name in ("tools", "functions")),
        ({"conversations": TEXT, "tools": [{"name": "f"}]}, "field 'tools' has tool definitions"),
        ({"conversations": TEXT, "weight": 0.2}, "field 'weight' is a loss weight"),
        *(({"conversations": TEXT, name: "S"}, f"field '{name}' may be a system prompt")
          for name in ("meta_instruction", "custom_instruction")),
        ({"conversations": TEXT, "history": [["q", "a"]]}, "field 'history' has earlier turns"),
        # Media in fields with generic names.
        *(({"conversations": TEXT, name: value}, f"field '{name}' has media")
          for name in ("clip", "media", "attachments", "Files", "speech", "frames", "vision")
          for value in ("x/a.mp4", ["a.WAV"], [{"path": "a.mov"}], "https://a.b/c.webm?d=e",
                        {"bytes": b"a", "path": None})),
        ({"conversations": TEXT, "loss_weight": 0.5}, "field 'loss_weight'"),
        *(({"conversations": TEXT, name: value}, f"field '{name}' is {value!r}, but the loss")
          for name, value in (("loss_mask", [1, 0]), ("loss_mask", [0]), ("loss_mask", 0),
                              ("label", False), ("train", False), ("train", 0), ("train", "no"),
                              ("trainable", False), ("loss_scale", 0.5), ("loss_scale", [1.0, 2.0]),
                              ("loss", False), ("loss", [False]), ("lossMask", [1, 1]))),
        ({"conversations": TEXT, "instruction": "Be short."}, "is in no message; add it"),
        ({"messages": messages()["messages"], "input": "some text"}, "is in no message; add it"),
        (turns("human", "tool", "gpt"), "message 1 has 'tool' as 'from'"),
        (turns("human", "function_call", "observation", "gpt"), "'function_call' as 'from'"),
        ({"messages": [{"role": "ipython", "content": "x"}]}, "message 0 has 'ipython' as 'role'"),
        (messages(tool_calls=[{"id": "1"}]), "message 1: field 'tool_calls'"),
        (messages(weight=0), "message 1: field 'weight' is 0"),
        (messages(loss=False), "message 1: field 'loss' is False"),
        (messages(train=0.0), "message 1: field 'train' is 0.0"),
        (messages(("train", True)), "message 0: field 'train' is True"),
        (messages(reasoning_content="so"), "field 'reasoning_content'"),
        (messages(("name", "Ann")), "message 0: field 'name'"),
        (messages(("images", ["a.png"])), "message 0: field 'images'"),
        (messages(("content", [{"type": "video", "video": "a.mp4"}])), "unsupported type 'video'"),
        (messages(("content", [{"type": "input_audio", "input_audio": {}}])), "'input_audio'"),
        (messages(("content", [{"video": "a.mp4"}, {"text": "what?"}])), "type 'video'"),
        (messages(("content", [{"type": "text", "text": "a", "image": "b.png"}])), "two parts"),
        # An image in a field that is not read.
        ({"conversations": TEXT, "image_path": "a"}, "field 'image_path' has an image that is not"),
        ({"conversations": TEXT, "img": "a.png"}, "field 'img'"),
        ({"conversations": TEXT, "Image": "a.png"}, "field 'Image'"),
        ({"conversations": TEXT, "image_url": "https://a.b/c"}, "field 'image_url'"),
        ({"conversations": TEXT, "image_0": b"a"}, "field 'image_0'"),
        ({"conversations": TEXT, "attachments": [{"path": "a.jpg"}]}, "field 'attachments'"),
        ({"conversations": TEXT, "frames": ["a.jpg", "b.jpg"]}, "field 'frames'"),
        # Beside an image that is read.
        ({"conversations": ASKS, "image": "a.png", "image2": "b.png"}, "field 'image2'"),
        ({"conversations": ASKS, "image": b"a", "image_2": b"b"}, "field 'image_2'"),
        ({"conversations": ASKS, "image": "a.png", "image_path": "b.png"}, "field 'image_path'"),
        ({"conversations": TEXT, "picture_file": "x/a.JPG"}, "field 'picture_file'"),
        ({"conversations": TEXT, "thing": {"bytes": b"a", "path": None}}, "field 'thing'"),
        ({"conversations": TEXT, "thing": "data:image/png;base64,AAAA"}, "field 'thing'"),
    ],
)  # fmt: skip
def test_records(record, words):
    with pytest.raises(SampleError, match=r"^f\.json: sample 3: ") as caught:
        parse_sample(record, "f.json: sample 3")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "record",
    [
        {"conversations": TEXT, "id": "a.jpg", "source": "web", "score": 0.5, "width": None},
        {"conversations": TEXT, "loss_weight": 1, "kto_tag": None, "image_path": None},
        {"conversations": ASKS, "image": "a.png", "image_path": "x/a.png", "thumbnail": b"x"},
        {"conversations": ASKS, "image": "a.png", "image_url": "https://a.b/c.jpg", "img": b"x"},
        {"conversations": ASKS, "image": b"a", "image_path": "x/b.png", "image_name": "b.png"},
        {"conversations": ASKS, "jpg": b"a", "image_path": "x/b.png"},
        # Names or values like those of images, but not both.
        {"conversations": TEXT, "prompt": "How do I convert photo.heic to photo.jpg"},
        {"conversations": TEXT, "title": "Best free editor for .psd", "emb": b"abc"},
        {"conversations": TEXT, "source": "https://element.im", "url": "https://birzeit.edu.ps"},
        {"conversations": TEXT, "references": ["Figure 3.png"], "user_avatar": "https://a.b/u.png"},
        {"conversations": TEXT, "photo": False, "image_id": 33, "picture": "of a man", "vision": 1},
        # The same for media and tools.
        {"conversations": TEXT, "video": "None", "videos": 0, "audio": "what one hears in it"},
        {"conversations": TEXT, "speech": "Four score and seven years", "source": "a.mp4"},
        {"conversations": TEXT, "functions": ["def f(): pass"], "files": ["notes.txt"]},
        {"conversations": TEXT, "weight": "1.5 kg", "custom_instruction": False, "history": None},
        {"conversations": TEXT, "objects": {"ref": [], "bbox": []}},
        # Values that mean "all answers are trained on", and other uses of these fields.
        {"conversations": TEXT, "loss_mask": [0, 1], "train": True, "loss_scale": 1.0, "loss": 2.5},
        {"conversations": TEXT, "loss_mask": [1], "label": True, "trainable": 1, "train": "train"},
        {"conversations": [{"from": "system", "value": "s"}, *TEXT], "loss_mask": [0, 0, 1]},
        *(
            {"conversations": TEXT, "label": value}
            for value in (0, 1, "cat", [0, 1], {"ability": ["x"]}, None)
        ),
        {"conversations": TEXT, "train": None, "loss_mask": [], "model": "m", "task": "t"},
        # Magpie repeats the question, like others.
        {"conversations": TEXT, "instruction": "what?", "response": "a cat", "input": ""},
        {"conversations": ASKS, "image": "a.png", "instruction": "<image>\n\nwhat? "},
        messages(weight=1, loss=None, tool_calls=None, name=None, refusal=None),
        messages(("train", False), ("name", "User"), train=True),
        messages(("weight", 1), weight=1.0),
    ],
)
def test_ignored_fields(record):
    assert parse_sample(record, "").turns[0][1] in ("a", "a cat")

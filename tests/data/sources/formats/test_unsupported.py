"""What changes a sample's meaning is refused by name; what does not is no fault."""

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
    ["video", "videos", "audio", "audios", "mp4", "wav", "video_path", "tools", "functions",
     "chosen", "rejected", "rejected_response"],
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
        ({"conversations": TEXT, "loss_weight": 0.5}, "field 'loss_weight'"),
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
        (messages(("content", [{"type": "video", "video": "a.mp4"}])), "of type 'video'"),
        (messages(("content", [{"type": "input_audio", "input_audio": {}}])), "'input_audio'"),
        (messages(("content", [{"video": "a.mp4"}, {"text": "what?"}])), "of type 'video'"),
        (messages(("content", [{"type": "text", "text": "a", "image": "b.png"}])), "two parts"),
        # An image under a name that is not read.
        ({"conversations": TEXT, "image_path": "a"}, "field 'image_path' holds an image"),
        ({"conversations": TEXT, "img": "a.bin"}, "field 'img'"),
        ({"conversations": TEXT, "picture_file": "x/a.JPG"}, "field 'picture_file'"),
        ({"conversations": TEXT, "thing": {"bytes": b"a", "path": None}}, "field 'thing'"),
        ({"conversations": TEXT, "thing": [b"a"]}, "field 'thing'"),
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
        messages(weight=1, loss=None, tool_calls=None, name=None, refusal=None),
        messages(("train", False), ("name", "User"), train=True),
        messages(("weight", 1), weight=1.0),
    ],
)
def test_what_changes_nothing(record):
    assert parse_sample(record, "").turns[0][1] in ("a", "a cat")


@pytest.mark.parametrize(
    "text",
    [
        "<video>\nWhat happens?", "<video>What happens?", "What happens in <video> here?",
        "<audio>\nWho speaks?", "Who speaks? <|audio|>", "<|AUDIO|>", "<|video_pad|>",
        "<|image|>What?", "<|image_1|>\nWhat?", "<|vision_start|><|image_pad|><|vision_end|>What?",
        "Picture 1: <img>a/b.jpg</img>\nWhat?", "<img>What?", "[IMG]What?", "[IMG][IMG_END]",
        "<image_1>What?", "<image 1> What?", "<image1>", "<Image>\nWhat?", "<IMAGE>",
        "<ImageHere>What?", "<IMG_CONTEXT>", "<image_placeholder>What?", "<start_of_image>What?",
        "<image_soft_token>", "<fake_token_around_image>", "<im_patch>", "Where is <ref-object>?",
    ],
)  # fmt: skip
def test_tags_of_other_frameworks(text):
    for record in (asks(text), asks(text) | {"images": ["a.png"]}):
        with pytest.raises(SampleError, match="message 0 holds '") as caught:
            parse_sample(record, "")
        assert caught.value.kind == "unsupported"
    with pytest.raises(SampleError, match="field 'system' holds '"):
        parse_sample(asks("what?") | {"system": text}, "")


@pytest.mark.parametrize(
    "text",
    [
        "How do I style an <img> tag in CSS?",
        "What does the `<video>` element do?",
        '<div><img src="a.png"></div> Why is it not centred?',
        "<video controls><source src='a.mp4'></video> does not play",
        "<video>\n<source src='a.mp4'>\n</video>",
        "[IMG]http://a/b.png[/IMG] is how forums write it",
        "is 3 < image and image > 2 in [img, 1]?",
        "a <b> c",
    ],
)
def test_texts_about_markup(text):
    assert parse_sample(asks(text), "").turns[0][0] == text


def test_numbered_tags_may_refer_to_markers():
    record = asks("<image>\nIn <image 1>, what?") | {"image": "a.png"}
    assert parse_sample(record, "").images == ("a.png",)


def test_what_the_model_says_may_hold_tags():
    record = {"conversations": [TEXT[0], TEXT[1] | {"value": "Write <|image|> or <video>."}]}
    assert parse_sample(record, "").turns[0][1] == "Write <|image|> or <video>."

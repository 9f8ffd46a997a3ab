"""Records in the formats of other projects."""

import contextlib
import json

import pytest

from mgm.data.doctor.__main__ import main
from mgm.data.sources.formats.record import parse_sample
from mgm.data.sources.json.json_index import SampleIndex
from mgm.data.sources.sample import Sample, SampleError
from tests.data.shards import write_tar

HUMAN = {"from": "human", "value": "what?"}
ASKS = {"from": "human", "value": "<image>\nwhat?"}
MODEL = {"from": "gpt", "value": "a cat"}
IMAGE = {"bytes": b"image", "path": None}


@pytest.mark.parametrize(
    ("row", "turns", "images"),
    [
        (  # as lmms-lab/LLaVA-OneVision-Data
            {
                "id": "1",
                "image": IMAGE,
                "conversations": [
                    {"from": "human", "value": "<image>\nWhat?"},
                    {"from": "gpt", "value": "That."},
                ],
                "data_source": "x",
            },
            (("<image>\nWhat?", "That."),),
            (b"image",),
        ),
        (  # as HuggingFaceM4/the_cauldron
            {
                "images": [IMAGE, {"bytes": None, "path": "a.png"}],
                "texts": [
                    {"user": "What?", "assistant": "That.", "source": "x"},
                    {"user": "And?", "assistant": "This.", "source": "x"},
                ],
            },
            (("<image>\n<image>\nWhat?", "That."), ("And?", "This.")),
            (b"image", "a.png"),
        ),
        (  # as the OpenAI API
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "image_url", "image_url": {"url": "a.png"}, "text": None},
                            {"type": "text", "text": "What?"},
                        ],
                    },
                    {"role": "assistant", "content": "That."},
                ],
                "images": ["a.png"],
            },
            (("<image>\nWhat?", "That."),),
            ("a.png",),
        ),
        ({"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]},
         (("1", "2"),), ()),
        # Captions as in LAION and CC3M.
        ({"jpg": b"image", "txt": "A dog."}, (("<image>", "A dog."),), (b"image",)),
        ({"2.jpg": b"b", "1.PNG": b"a", "caption": "Two.", "image": "no"},
         (("<image>\n<image>", "Two."),), (b"a", b"b")),
    ],
)  # fmt: skip
def test_layouts(row, turns, images):
    sample = parse_sample(row, "here")
    assert sample.turns == turns
    assert sample.images == images


def test_empty_columns_are_ignored():
    talk = {"conversations": [HUMAN, MODEL]}
    for empty in ([], None, "", "[]"):
        assert parse_sample(talk | {"messages": empty, "texts": empty}, "").turns[0][0] == "what?"
        caption = {"conversations": empty, "caption": "A dog.", "image": "a.png", "txt": empty}
        assert parse_sample(caption, "").turns == (("<image>", "A dog."),)
    with pytest.raises(SampleError, match="in both 'conversations' and 'messages'"):
        parse_sample(talk | {"messages": [HUMAN, MODEL]}, "")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        *(({name: "What?"}, f"has a '{name}', so that 'text'")
          for name in ("question", "question_id", "answer", "instruction", "response")),
        ({"question_id": 0}, "has a 'question_id', so that"),
        ({"question": "What?", "answers": ["a"]}, "has a 'question', so that"),
        ({"caption": "A cat."}, "'caption' and 'text' are different captions"),
    ],
)  # fmt: skip
def test_texts_that_are_not_captions(more, words):
    row = {"image": "a.png", "text": "A dog."}
    assert parse_sample(row | {"caption": "A dog. ", "question": None}, "").turns[0][1] == "A dog. "
    with pytest.raises(SampleError, match=words) as caught:
        parse_sample(row | more, "")
    assert caught.value.kind == "unsupported"


SYSTEM_NAMES = ("system", "system_prompt", "system_message", "systemPrompt", "System",
                "system_instruction", "system_instructions")  # fmt: skip


@pytest.mark.parametrize("name", SYSTEM_NAMES)
def test_system_fields(name):
    for talk in ({"conversations": [HUMAN, MODEL]},
                 {"conversations": [{"from": "system", "value": ""}, HUMAN, MODEL]}):  # fmt: skip
        assert parse_sample(talk | {name: "Be kind."}, "").system == "Be kind."
        assert parse_sample(talk | {name: ""}, "").system is None
        with pytest.raises(
            SampleError, match=f"field '{name}', the system prompt, contains <image>"
        ):
            parse_sample(talk | {name: "See <image>", "images": ["a.png"]}, "")
    message = {"from": "system", "value": "See <image>"}
    with pytest.raises(SampleError, match="message 0, the system prompt, has an image") as caught:
        parse_sample({"images": ["a.png"], "conversations": [message, HUMAN, MODEL]}, "")
    assert caught.value.kind == "markers"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": "a", "answer": "b"}, "found: question, answer"),
        ({}, "found: nothing"),
        ({"texts": []}, "expected a list of messages"),
        ({"texts": "a"}, "expected a list of messages"),
        ({"messages": ["a"]}, "message 0 is a string"),
        ({"messages": [{"role": "system", "content": "a"}]}, "no answer to train on"),
        ({"caption": " ", "jpg": b"image"}, "'caption' has no text"),
        ({"texts": [{"user": "a", "assistant": None}]}, "has null as 'assistant'"),
        ({"conversations": [{"from": "human", "value": "a"}]}, "no answer"),
        ({"messages": [{"role": "user", "content": "<image>"},
                       {"role": "assistant", "content": "b"}]}, "1 <image> marker but 0"),
    ],
)  # fmt: skip
def test_errors(row, words):
    with pytest.raises(SampleError, match=r"^here: ") as caught:
        parse_sample(row, "here")
    assert words in str(caught.value)


def test_turns_images_and_initial_assistant_message():
    assert parse_sample({"conversations": [HUMAN, MODEL]}, "") == Sample((("what?", "a cat"),))
    sample = parse_sample(
        {
            "id": 7,
            "more": None,
            "image": "a.png",
            "conversations": [MODEL, ASKS, MODEL, HUMAN],
        },
        "",
    )
    assert sample.initial_assistant_message == "a cat"
    assert sample.turns == (("<image>\nwhat?", "a cat"), ("what?", None))
    assert sample.images == ("a.png",)
    assert sample.words == 2 + 2 + 2 + 1
    two = parse_sample({"image": ["a", "b"], "conversations": [ASKS, MODEL, ASKS, MODEL]}, "")
    assert two.images == ("a", "b")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([1], "is a list; expected an object with 'conversations'"),
        (
            {},
            "one of the fields conversations, messages, texts, caption, txt, text, found: nothing",
        ),
        ({"conversations": "hi"}, "'conversations' is a string"),
        ({"conversations": []}, "'conversations' is an empty list"),
        ({"conversations": None}, "has no conversation"),
        ({"conversations": 2.5}, "'conversations' is a number"),
        ({"conversations": True}, "'conversations' is a boolean"),
        (
            {"conversations": [HUMAN, "hi"]},
            "message 1 is a string; expected an object with 'from' and 'value'",
        ),
        ({"conversations": [HUMAN, {"from": "gpt"}]}, "message 1 has no 'value'"),
        ({"conversations": [{"value": "x"}, MODEL]}, "message 0 has no 'from'"),
        ({"conversations": [HUMAN, {"from": "gpt", "value": 3}]}, "a number as 'value'"),
        (
            {"conversations": [HUMAN, {"from": "bot", "value": ""}]},
            "'bot'; valid: 'human', 'gpt'",
        ),
        ({"conversations": [HUMAN, HUMAN]}, "message 1 is from 'human', expected 'gpt'"),
        (
            {"conversations": [MODEL, HUMAN, MODEL, MODEL]},
            "message 3 is from 'gpt', expected 'human'",
        ),
        ({"conversations": [HUMAN]}, "has no answer to train on"),
        ({"conversations": [MODEL]}, "has no answer to train on"),
        ({"conversations": [MODEL, HUMAN]}, "has no answer to train on"),
        ({"conversations": [ASKS, MODEL]}, "1 <image> marker but 0 images in field 'image'"),
        (
            {"image": "a", "conversations": [MODEL | {"value": "<image>"}, HUMAN, MODEL]},
            "message 0, before the first question, contains <image>",
        ),
        ({"image": "a", "conversations": [HUMAN, MODEL]}, "0 <image> markers but 1 image in"),
        ({"image": 3, "conversations": [ASKS, MODEL]}, "has a number as 'image'"),
        ({"image": [None], "conversations": [ASKS, MODEL]}, "1 <image> marker but 0 images"),
        ({"image": [None, "a"], "conversations": [ASKS, MODEL]}, "has null as image 1 of 2"),
        ({"image": "", "conversations": [ASKS, MODEL]}, "1 <image> marker but 0 images"),
        ({"image": ["a", ""], "conversations": [ASKS, MODEL]}, "an empty string as image 2 of 2"),
    ],
)
def test_errors_of_samples(raw, message):
    with pytest.raises(SampleError) as caught:
        parse_sample(raw, "data.json: sample 3")
    assert str(caught.value).startswith("data.json: sample 3: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def nested(value, depth=3000, make=lambda inner: [inner]):
    for _ in range(depth):
        value = make(value)
    return value


NESTED_FIELDS = ("system", "image", "images", "tools", "video", "file", "objects", "history",
                 "img", "messages", "texts", "label", "loss_mask", "weight", "caption")  # fmt: skip


@pytest.mark.parametrize("name", NESTED_FIELDS)
@pytest.mark.parametrize(
    "make", [lambda inner: [inner], lambda inner: {"path": inner}], ids=["lists", "objects"]
)
def test_deep_nesting(name, make):
    talk = [HUMAN, MODEL]
    for value in (nested("a.png", make=make), nested(None, make=make), [nested("a", make=make)]):
        with contextlib.suppress(SampleError):  # some are rejected without parsing their content
            parse_sample({"conversations": talk, name: value}, "")
        message = {"from": "human", "value": "what?", name: value}
        with contextlib.suppress(SampleError):
            parse_sample({"conversations": [message, MODEL]}, "")
        part = {"type": "image", "image": value}
        with pytest.raises(SampleError):
            parse_sample({"messages": [{"role": "user", "content": [part]}]}, "")
    with pytest.raises(SampleError, match=r"^here: is nested too deeply; remove the nested"):
        parse_sample({"conversations": talk, "tools": nested([], 3000)}, "here")


@pytest.mark.parametrize("ending", ["json", "jsonl", "tar"])
def test_record_in_a_json_field(tmp_path, capsys, ending):
    good = json.dumps({"conversations": [HUMAN, MODEL]})
    bad = f'{good[:-1]}, "tools": {"[" * 700}{"]" * 700}}}'
    file = tmp_path / f"a.{ending}"
    if ending == "tar":
        write_tar(file, [("0.json", good), ("1.json", bad)])
    else:
        file.write_text(f"[{good}, {bad}]" if ending == "json" else f"{good}\n{bad}")
    assert main([str(file)]) == 1
    assert "1: sample 1: is nested too deeply" in capsys.readouterr().out
    if ending != "tar":
        index = SampleIndex.of(file)
        assert len(index.indices) == len(index.fault_list()) == 1

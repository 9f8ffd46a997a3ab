import json

import pytest

from mgm.data.sources.sample import Sample, check_sample, read_samples
from mgm.errors import MGMError

HUMAN = {"from": "human", "value": "what?"}
IMAGE = {"from": "human", "value": "<image>\nwhat?"}
MODEL = {"from": "gpt", "value": "a cat"}


def test_turns_images_and_greeting():
    assert check_sample({"conversations": [HUMAN, MODEL]}, "") == Sample((("what?", "a cat"),))
    sample = check_sample(
        {
            "id": 7,
            "more": None,
            "image": "a.png",
            "conversations": [MODEL, IMAGE, MODEL, HUMAN],
        },
        "",
    )
    assert sample.greeting == "a cat"
    assert sample.turns == (("<image>\nwhat?", "a cat"), ("what?", None))
    assert sample.images == ("a.png",)
    assert sample.words == 2 + 2 + 2 + 1
    two = check_sample({"image": ["a", "b"], "conversations": [IMAGE, MODEL, IMAGE, MODEL]}, "")
    assert two.images == ("a", "b")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([1], "is a list; give an object with 'conversations'"),
        ({}, "has no conversations"),
        ({"conversations": "hi"}, "has a text as conversations"),
        ({"conversations": []}, "has an empty list as conversations"),
        ({"conversations": None}, "has null as conversations"),
        ({"conversations": 2.5}, "has a number as conversations"),
        ({"conversations": True}, "has a boolean as conversations"),
        (
            {"conversations": [HUMAN, "hi"]},
            "message 1 is a text; give an object with 'from' and 'value'",
        ),
        ({"conversations": [HUMAN, {"from": "gpt"}]}, "message 1 has no 'value'"),
        ({"conversations": [{"value": "x"}, MODEL]}, "message 0 has no 'from'"),
        ({"conversations": [HUMAN, {"from": "gpt", "value": 3}]}, "a number as 'value'"),
        (
            {"conversations": [HUMAN, {"from": "bot", "value": ""}]},
            "'bot'; choose 'human' or 'gpt'",
        ),
        ({"conversations": [HUMAN, HUMAN]}, "message 1 is from 'human' where 'gpt' comes next"),
        ({"conversations": [MODEL, HUMAN, MODEL, MODEL]}, "message 3 is from 'gpt' where 'human'"),
        ({"conversations": [HUMAN]}, "has no answer to learn"),
        ({"conversations": [MODEL]}, "has no answer to learn"),
        ({"conversations": [MODEL, HUMAN]}, "has no answer to learn"),
        ({"conversations": [IMAGE, MODEL]}, "1 <image> marker but 0 images in field 'image'"),
        (
            {"image": "a", "conversations": [MODEL | {"value": "<image>"}, HUMAN, MODEL]},
            "message 0, before the first question, holds an <image> marker",
        ),
        ({"image": "a", "conversations": [HUMAN, MODEL]}, "0 <image> markers but 1 image in"),
        ({"image": 3, "conversations": [IMAGE, MODEL]}, "has a number as 'image'"),
        ({"image": [None], "conversations": [IMAGE, MODEL]}, "has null as image 1 of 1 in 'image'"),
        ({"image": "", "conversations": [IMAGE, MODEL]}, "has an empty text as image 1 of 1"),
        ({"image": ["a", ""], "conversations": [IMAGE, MODEL]}, "an empty text as image 2 of 2"),
    ],
)
def test_faults_of_a_sample(raw, message):
    with pytest.raises(MGMError) as caught:
        check_sample(raw, "data.json: sample 3")
    assert str(caught.value).startswith("data.json: sample 3: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lists_and_lines(write_samples):
    good = {"conversations": [HUMAN, MODEL]}
    listed = read_samples(write_samples([good, good]))
    line = json.dumps(good)
    lines = read_samples(write_samples(f"{line}\n\n{line}\n", "data.jsonl"))
    assert listed == lines
    assert len(lines) == 2
    marked = read_samples(write_samples("\ufeff" + json.dumps([good, good])))
    assert marked == read_samples(write_samples(f"\ufeff{line}\n{line}", "data.jsonl")) == lines


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not valid JSON"),
        ("[{]", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("{}", "holds an object, not a list of samples"),
        ("[]", "holds no sample"),
        ('[{"conversations": 1}]', "data.json: sample 0: has a number as conversations"),
    ],
)
def test_faults_of_a_file(write_samples, content, message):
    path = write_samples(content)
    with pytest.raises(MGMError) as caught:
        read_samples(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path, write_samples):
    with pytest.raises(MGMError, match=r"none.json: cannot be read \(No such file"):
        read_samples(tmp_path / "none.json")
    with pytest.raises(MGMError, match="cannot be read"):
        read_samples(tmp_path)
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MGMError, match=r"bytes.json: cannot be read"):
        read_samples(tmp_path / "bytes.json")
    with pytest.raises(MGMError, match="line 2: is not valid JSON"):
        read_samples(
            write_samples(f'{json.dumps({"conversations": [HUMAN, MODEL]})}\n{{"b"', "data.jsonl")
        )

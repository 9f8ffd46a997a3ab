"""Rows in the ways that others write conversations."""

import pytest

from mgm.data.sources.formats import as_sample
from mgm.data.sources.sample import SampleError, check_sample

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
        # Captions, as LAION and CC3M are packed.
        ({"jpg": b"image", "txt": "A dog."}, (("<image>", "A dog."),), (b"image",)),
        ({"2.jpg": b"b", "1.PNG": b"a", "caption": "Two.", "image": "no"},
         (("<image>\n<image>", "Two."),), (b"b", b"a")),
    ],
)  # fmt: skip
def test_layouts(row, turns, images):
    sample = check_sample(as_sample(row, "here"), "here")
    assert sample.turns == turns
    assert sample.images == images


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": "a", "answer": "b"}, "found: question, answer"),
        ({}, "found: nothing"),
        ({"texts": []}, "no list of messages"),
        ({"texts": "a"}, "no list of messages"),
        ({"messages": ["a"]}, "message 0"),
        ({"messages": [{"role": "system", "content": "a"}]}, "role 'system'"),
        ({"caption": " ", "jpg": b"image"}, "no text in 'caption'"),
        ({"texts": [{"user": "a", "assistant": None}]}, "message 1 has null as 'value'"),
        ({"conversations": [{"from": "human", "value": "a"}]}, "no answer"),
        ({"messages": [{"role": "user", "content": "<image>"},
                       {"role": "assistant", "content": "b"}]}, "1 <image> marker but 0"),
    ],
)  # fmt: skip
def test_faults(row, words):
    with pytest.raises(SampleError, match=r"^here: ") as caught:
        check_sample(as_sample(row, "here"), "here")
    assert words in str(caught.value)

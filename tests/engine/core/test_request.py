import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mgm import MGMError, Request


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompt": None}, "prompt is None; give a string"),
        ({"temperature": -0.1}, "temperature is -0.1; give from 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; give 1 or more"),
        ({"max_new_tokens": 1.5}, "max_new_tokens is 1.5"),
        ({"top_p": 0}, "top_p is 0; give above 0 and up to 1"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"seed": -1}, "seed is -1"),
        ({"stop": "###"}, "stop is '###'; give a list"),
        ({"stop": [""]}, "stop is"),
        ({"stop": None}, "stop is None; give a list"),
        ({"stop": ["a", "b" * 1001]}, "stop has a text of 1001 characters; give 1000 or fewer"),
        ({"stop": ["a"] * 33}, "stop has 33 texts; give 32 or fewer"),
        ({"continues_text": 1}, "continues_text is 1; give True or False"),
        ({"history": "ab"}, "history is 'ab'; give a list"),
        ({"history": ["a"]}, "history, turn 1: 'a'; give a pair"),
        ({"history": [("a", "b"), ("c", None)]}, "history, turn 2"),
        ({"prompt": "<image>\nwhat?"}, "the text has 1 <image> but 0 images came with it"),
        ({"prompt": "<image>", "images": ["a", "b"]}, "1 <image> but 2 images"),
        ({"prompt": "?", "history": [("<image>", "a <image>")], "images": ["a"]}, "the answer"),
    ],
)
def test_invalid_requests(wrong, message):
    with pytest.raises(MGMError, match=message.replace("?", r"\?")) as caught:
        Request(**({"prompt": "what is this?"} | wrong))
    assert "\n" not in str(caught.value)


def test_requests_are_immutable():
    images = ["a.png"]
    request = Request("what?", images=images, history=[("q", "a")])
    images.append("b.png")
    assert request.images == ("a.png",)
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.prompt = "another"


def test_image_markers_at_any_position():
    request = Request("and <image>?", images=["a", "b"], history=[("<image> first", "yes")])
    assert request.questions == ["<image> first", "and <image>?"]


def test_single_image_without_a_list():
    pixels = np.zeros((4, 4, 3), np.uint8)
    for image in ("a.png", Path("a.png"), b"content", Image.new("RGB", (4, 4)), pixels):
        assert Request("what?", images=image).images == (image,)
    assert Request("<image>what?", images=pixels).images[0] is pixels

import pytest

from mgm.data.text.conversation import Segment, move_image_first, training_segments
from mgm.data.text.encoding import encode
from mgm.data.text.templates import get_template
from mgm.model.labels import IGNORE_INDEX


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What?\n<image>", "<image>\nWhat?"),
        ("Look at <image> now", "<image>\nLook at  now"),
        ("<image>", "<image>"),
        ("What? ", "What? "),
        ("<image> or <image>? ", "<image> or <image>?"),
    ],
)
def test_move_image_first(text, expected):
    assert move_image_first(text) == expected


def test_image_positions_have_no_labels(nano_tokenizer):
    segments = [Segment("what"), Segment("<image>cat<|end|>", supervised=True), Segment("dog")]
    ids, labels = encode(segments, nano_tokenizer, 999, 3)
    words = nano_tokenizer.convert_tokens_to_ids(["what", "cat", "<|end|>", "dog"])
    assert ids == [words[0], 999, 999, 999, *words[1:]]
    assert labels == [IGNORE_INDEX] * 4 + [*words[1:3], IGNORE_INDEX]


def test_caption_template_supervises_every_caption():
    turns = [("Describe <image> now", "a cat"), ("<image>And?", "a dog")]
    segments = training_segments(get_template("plain"), turns)
    assert [segment.text for segment in segments if segment.supervised] == ["a cat\n", "a dog\n"]
    assert "".join(segment.text for segment in segments) == "<image>a cat\n<image>a dog\n"

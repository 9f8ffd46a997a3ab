"""The response cache and its keys."""

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mgm.data.images.loading import open_image
from mgm.eval.benchmarks.docvqa import DocVQA
from mgm.eval.benchmarks.mme import MME
from mgm.eval.harness.models import EndpointModel
from mgm.eval.harness.openai_client import Completion
from mgm.eval.harness.question import Question
from mgm.eval.harness.response_cache import ResponseCache


def photo(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.linear_gradient("L").resize((60, 40)).save(file, "JPEG", exif=exif)
    return file.getvalue()


def test_key_includes_orientation(tmp_path):
    cache = ResponseCache(tmp_path, "model")
    stored = Question("1", "what?", (photo(6),))
    upright = replace(stored, orientation="upright")
    assert stored.orientation == "stored"
    assert cache.key(stored) != cache.key(upright)
    text = Question("1", "what?")
    assert cache.key(text) == cache.key(replace(text, orientation="upright"))


def test_orientation_of_protocols():
    for kind, protocol, orientation in (
        (MME(), "paper", "stored"),
        (MME(), "lmms-eval", "upright"),
        (MME(), "vlmevalkit", "stored"),
        (DocVQA(), "official", "upright"),  # with lmms-eval's orientation
        (DocVQA(), "vlmevalkit", "stored"),
    ):
        assert kind.orientation(kind.splits[0], protocol) == orientation


def test_endpoints_get_rotated_pixels(monkeypatch):
    answerer = EndpointModel("http://localhost:1/v1", "model", 1)
    bodies = []
    monkeypatch.setattr(
        answerer._client, "complete", lambda body: bodies.append(body) or Completion("yes")
    )

    def sent(content, orientation):
        answerer._respond(Question("1", "what?", (content,), orientation=orientation))
        url = bodies[-1]["messages"][0]["content"][0]["image_url"]["url"]
        return base64.b64decode(url.partition(",")[2])

    for orientation in ("stored", "upright"):
        assert sent(photo(1), orientation) == photo(1)  # unchanged
        pixels = sent(photo(6), orientation)
        expected = open_image(photo(6), orientation=orientation)
        assert np.array_equal(open_image(pixels), expected)
        assert np.array_equal(open_image(pixels, orientation="stored"), expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seconds", float("nan")), ("seconds", float("inf")), ("seconds", -1e9), ("seconds", True),
        ("prompt_tokens", True), ("prompt_tokens", 10**30), ("prompt_tokens", -1),
        ("completion_tokens", 1.5), ("finish_reason", 7), ("sampled", 1),
    ],
)  # fmt: skip
def test_invalid_fields_are_ignored(tmp_path, name, value):
    question = Question("1", "What?")
    key = ResponseCache(tmp_path, "m").key(question)
    record = {"key": key, "text": "a", "seconds": 1.5, "prompt_tokens": 3, name: value}
    (tmp_path / "answers-0.jsonl").write_text(json.dumps(record) + "\n")
    response = ResponseCache(tmp_path, "m").response(question)
    assert response is not None
    assert response.details == {
        key: value for key, value in (("prompt_tokens", 3), ("seconds", 1.5)) if key != name
    }

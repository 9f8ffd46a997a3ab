"""Request bodies: valid values, and errors of invalid ones."""

import json
from contextlib import suppress

import pytest

from mgm.serve.openai.errors import BadRequestError, parse_body
from mgm.serve.openai.protocol import (
    AttributionBody,
    ChatCompletionBody,
    CompletionBody,
    ImageGenerationBody,
    LegacyBody,
)

USER = {"role": "user", "content": "hi"}
CHAT = {"model": "m", "messages": [USER]}
BODIES = {
    ChatCompletionBody: CHAT,
    AttributionBody: CHAT,
    CompletionBody: {"model": "m", "prompt": "a"},
    ImageGenerationBody: {"model": "m", "prompt": "a"},
    LegacyBody: {"prompt": "a"},
}


def parse(change: object, model: type = ChatCompletionBody):
    return parse_body(model, json.dumps(BODIES[model] | change).encode())


def message(content: object, role: str = "user") -> dict:
    return {"messages": [{"role": role, "content": content}]}


@pytest.mark.parametrize(
    ("change", "code", "param", "text"),
    [
        ({"temperature": "hot"}, "invalid_type", "temperature", "a decimal, but got a string"),
        ({"temperature": True}, "invalid_type", "temperature", "a decimal, but got a boolean"),
        ({"temperature": 101}, "integer_above_max_value", "temperature", "<= 100"),
        ({"temperature": -0.5}, "decimal_below_min_value", "temperature", ">= 0"),
        ({"temperature": 10**400}, "invalid_value", "temperature", "finite decimal"),
        ({"top_p": float("nan")}, "invalid_value", "top_p", "finite decimal"),
        ({"min_p": float("-inf")}, "invalid_value", "min_p", "finite decimal"),
        ({"presence_penalty": 2.5}, "decimal_above_max_value", "presence_penalty", "<= 2"),
        ({"max_tokens": 0}, "integer_below_min_value", "max_tokens", ">= 1"),
        ({"max_tokens": 10**30}, "integer_above_max_value", "max_tokens", "< 2147483648"),
        ({"max_tokens": 5.5}, "invalid_type", "max_tokens", "an integer, but got a decimal"),
        ({"n": 1000}, "integer_above_max_value", "n", "<= 16"),
        ({"seed": 1.5}, "invalid_type", "seed", "an integer"),
        ({"stop": 3}, "invalid_type", "stop", "a string or an array, but got an integer"),
        ({"stop": [""]}, "empty_string", "stop[0]", "empty string"),
        ({"stop": ["a"] * 17}, "array_above_max_length", "stop", "a maximum length of 16"),
        ({"stream": "yes"}, "invalid_type", "stream", "a boolean, but got a string"),
        ({"logprobs": 3}, "invalid_type", "logprobs", "a boolean, but got an integer"),
        ({"top_logprobs": 21}, "integer_above_max_value", "top_logprobs", "<= 20"),
        ({"logit_bias": {"5": 200}}, "integer_above_max_value", "logit_bias.5", "<= 100"),
        ({"tool_choice": "required"}, "invalid_value", "tool_choice", "'none' or 'auto'"),
        ({"audio": {}}, "unsupported_parameter", "audio", "leave it out"),
        ({"stream_options": []}, "invalid_type", "stream_options", "an object, but got an array"),
        ({"response_format": {"type": "x"}}, "invalid_value", "response_format.type", "'x'"),
        ({"messages": []}, "empty_array", "messages", "minimum length of 1"),
        ({"messages": "hi"}, "invalid_type", "messages", "an array, but got a string"),
        ({"messages": [7]}, "invalid_type", "messages[0]", "an object, but got an integer"),
        ({"messages": [USER, {"role": "x"}]}, "invalid_value", "messages[1].role", "'user'"),
        (message(None), "invalid_value", "messages[0].content", "need content"),
        (message(7), "invalid_type", "messages[0].content", "a string or an array, but got an int"),
        (message([[]]), "invalid_type", "messages[0].content[0]", "an object"),
        (message([{"type": "audio"}]), "invalid_value", "messages[0].content[0].type", "'audio'"),
        (message([{"type": 5}]), "invalid_value", "messages[0].content[0].type", "'image_url'"),
        (message([{"text": "a"}]), "missing_required_parameter", "messages[0].content[0].type", ""),
        (
            message([{"type": "image_url", "image_url": {}}]),
            "missing_required_parameter",
            "messages[0].content[0].image_url.url",
            "",
        ),
        (
            message([{"type": "image_url", "image_url": {"url": ""}}]),
            "empty_string",
            "messages[0].content[0].image_url.url",
            "",
        ),
        (
            message([{"type": "image_url", "image_url": "a"}], "assistant"),
            "invalid_value",
            "messages[0].content[0].type",
            "only user messages",
        ),
        ({"model": None}, "invalid_type", "model", "a string, but got null"),
        ({"model": ""}, "empty_string", "model", "empty string"),
    ],
)  # fmt: skip
def test_errors_have_openais_format(change, code, param, text):
    with pytest.raises(BadRequestError) as caught:
        parse(change)
    error = caught.value
    assert (error.code, error.field, error.status) == (code, param, 400), str(error)
    assert text in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("prompt", "code", "param"),
    [
        ("", "empty_string", "prompt"),
        ([], "empty_array", "prompt"),
        (["a", ""], "empty_string", "prompt[1]"),
    ],
)
def test_empty_prompts(prompt, code, param):
    with pytest.raises(BadRequestError) as caught:
        parse({"prompt": prompt}, CompletionBody)
    assert (caught.value.code, caught.value.field) == (code, param)


def test_missing_fields():
    for model, body in BODIES.items():
        for name in body:
            with pytest.raises(BadRequestError, match=rf"parameter: '{name}'") as caught:
                parse_body(model, json.dumps({k: v for k, v in body.items() if k != name}).encode())
            assert caught.value.field == name


@pytest.mark.parametrize("model", BODIES)
def test_bodies_that_are_not_json(model):
    deep, long = b"[" * 100_000, b'{"a": 1' + b"0" * 5000 + b"}"
    halves = (b'{"a": "\\ud800"}', b'{"a": "\\udfff"}', b'{"\\ud83d": 1}', b'{"a": "\xed\xa0\x80"}')
    for content in (b"", b"{", b"\xff", "{}".encode("utf-16"), deep, long, *halves):
        with pytest.raises(BadRequestError, match="could not parse the JSON body"):
            parse_body(model, content)
    for content in (b"[]", b"7", b"null", b'"x"', b"NaN", b"1e999"):
        with pytest.raises(BadRequestError, match="Invalid type for the body"):
            parse_body(model, content)


@pytest.mark.parametrize("model", BODIES)
def test_any_json_value_in_any_field(model):
    """Each is accepted or rejected; nothing else is raised."""
    values = [
        *(None, True, 0, -1, 1.5, 10**19, -(10**400), float("nan"), float("inf"), 1e308),
        *("", "x", "\0", "\U0001f600", "a" * 10_000, [], {}, [[]], [None], {"a": None}, [{}]),
    ]
    fields = [*model.model_fields, "unknown"]
    taken = 0
    for name in fields:
        for value in values:
            with suppress(BadRequestError):
                parse({name: value}, model)
                taken += 1
    assert taken > len(fields)


def test_bodies_of_published_pages():
    """Their sliders end at 0, and their numbers may be strings."""
    body = parse(
        {"temperature": 0, "top_p": 0.0, "max_new_tokens": 0, "stop": "</s>", "images": []},
        LegacyBody,
    )
    assert (body.temperature, body.top_p, body.max_new_tokens) == (0, 0, 0)
    assert parse({"temperature": "0.2", "max_new_tokens": "512"}, LegacyBody).temperature == 0.2


def test_byte_order_mark():
    assert parse_body(ChatCompletionBody, b"\xef\xbb\xbf" + json.dumps(CHAT).encode()).model == "m"


def test_unknown_fields_are_ignored():
    assert parse({"user": 7, "metadata": {"a": [1]}, "model_": None}).model == "m"


def test_integers_as_floats():
    assert parse({"temperature": 1, "seed": -(10**30)}).seed == -(10**30)

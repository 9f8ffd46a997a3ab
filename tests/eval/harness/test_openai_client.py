"""The client against servers with every kind of error."""

import email.utils
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mgm.errors import MGMError
from mgm.eval.harness.chat_reply import Completion, unsupported_field, without_reasoning
from mgm.eval.harness.openai_client import (
    REASONING_TOKENS,
    EndpointUnavailableError,
    OpenAIClient,
)
from tests.eval.harness.misbehaving_server import Reply, refused, reply_with, server

BODY = {"model": "m", "messages": [], "temperature": 0, "max_tokens": 16}
GOOD = reply_with("yes")


def endpoint(address: str, timeout: float = 5.0) -> OpenAIClient:
    return OpenAIClient(address, "the server", wait=0.001, timeout=timeout)


@pytest.mark.parametrize(
    "fault",
    [
        Reply({"error": "busy"}, 500),
        Reply({"error": "busy"}, 503),
        Reply({"error": "slow down"}, 429, {"Retry-After": "0"}),
        Reply({"error": "slow down"}, 429, {"Retry-After": "soon"}),
        Reply(b"<html>it works</html>"),
        Reply(b'{"choices": [{"mess'),
        Reply(b"[" * 100_000),
        Reply({"choices": []}),
        Reply({"choices": None}),
        Reply({"choices": ["yes"]}),
        Reply(["yes"]),
        Reply(None),
        Reply({"error": {"message": "in the body of a 200"}}),
        Reply(GOOD.body, cut=20),
        Reply(close=True),
        Reply(GOOD.body, delay=1.0),  # longer than the timeout
    ],
)
def test_retries(fault):
    timeout = 0.3 if fault.delay else 5.0
    with server(fault, GOOD) as (address, bodies):
        assert endpoint(address, timeout).complete(BODY).text == "yes"
        assert len(bodies) == 2
    if fault.delay:
        return
    with server(fault) as (address, bodies):
        with pytest.raises(
            MGMError, match=r"^the server does not respond after 5 attempts \("
        ) as raised:
            endpoint(address).complete(BODY)
        assert not isinstance(
            raised.value, EndpointUnavailableError
        )  # the next request may succeed
        assert len(bodies) == 5
        assert len(str(raised.value)) < 400


def test_retry_after():
    for in_seconds in (True, False):
        date = email.utils.formatdate(time.time() + 2, usegmt=True)  # rounded to seconds
        value = "1" if in_seconds else date
        busy = Reply({"error": "slow down"}, 429, {"Retry-After": value})
        with server(busy, GOOD) as (address, _):
            start_time = time.monotonic()
            assert endpoint(address).complete(BODY).text == "yes"
            assert time.monotonic() - start_time > 0.9


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (refused("no model 'm'", 404), r"refuses \(404\): .*no model 'm'"),
        (refused("bad key", 401), r"refuses \(401\): .*bad key"),
        (Reply(b"", 405), r"refuses \(405\)"),
        (
            Reply(b"", 307, {"Location": "https://elsewhere/v1"}),
            r"redirects to https://elsewhere/v1; give the address",
        ),
        (Reply(b"", 302, {"Location": "/login"}), "redirects to /login"),
    ],
)
def test_errors_of_all_requests_end_the_run(reply, says):
    with server(reply) as (address, bodies):
        with pytest.raises(EndpointUnavailableError, match=says):
            endpoint(address).complete(BODY)
        assert len(bodies) == 1


def test_connection_refused():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}/v1"
    with pytest.raises(EndpointUnavailableError, match=r"after 5 attempts \(.*refused"):
        endpoint(address).complete(BODY)
    for wrong in ("localhost:8000/v1", "file:///etc/passwd", "http://", ""):
        with pytest.raises(MGMError, match="not the address of a server"):
            endpoint(wrong)


def test_rejection_of_one_request():
    with server(refused("the image is too large")) as (address, bodies):
        with pytest.raises(MGMError, match=r"refuses \(400\): .*too large") as raised:
            endpoint(address).complete(BODY)
        assert not isinstance(raised.value, EndpointUnavailableError)
        assert len(bodies) == 1


def test_rejected_fields_are_replaced():
    """In error messages of OpenAI, vLLM and FastAPI."""

    def answer(body):
        if "max_tokens" in body:
            text = "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            return refused(f"{'x' * 500} {text}'max_completion_tokens' instead.")
        if "temperature" in body:
            return Reply({"detail": [{"loc": ["body", "temperature"], "msg": "Extra"}]}, 422)
        return GOOD

    with server(answer) as (address, bodies):
        there = endpoint(address)
        for _ in range(2):
            assert there.complete(BODY).text == "yes"
        assert len(bodies) == 4
        assert bodies[-1] == {"model": "m", "messages": [], "max_completion_tokens": 16}
    unsupported = "max_completion_tokens is not supported. temperature is not supported"
    with server(refused(unsupported)) as (address, bodies):
        with pytest.raises(MGMError, match="refuses"):  # retries are limited
            endpoint(address).complete(BODY)
        assert len(bodies) == 2


PASSED_ON = {"error": {"message": "max_tokens isn't supported with this model"}}


@pytest.mark.parametrize(
    ("refusal", "name"),
    [
        ({"error": {"message": "This model doesn't support temperature"}}, "temperature"),
        ({"error": {"message": "This model doesn’t support temperature."}}, "temperature"),
        ({"error": {"message": "invalid temperature: only 1 is allowed for this model"}},
         "temperature"),
        ({"error": {"message": "`temperature` may only be set to 1 when thinking is enabled."}},
         "temperature"),
        ({"error": "Input validation error: `temperature` must be strictly positive"},
         "temperature"),
        ({"error": {"message": "Invalid value", "param": "temperature"}}, "temperature"),
        ({"detail": [{"type": "greater_than", "loc": ["body", "temperature"], "msg": "0"}]},
         "temperature"),
        (PASSED_ON, "max_tokens"),
        ([PASSED_ON], "max_tokens"),
        ({"error": {"message": "Provider returned error",
                    "metadata": {"raw": json.dumps(PASSED_ON)}}}, "max_tokens"),
        ({"object": "error", "message": {"detail": [
            {"type": "extra_forbidden", "loc": ["body", "max_tokens"], "msg": "Extra"}]}},
         "max_tokens"),
        ({"error": {"message": "no", "metadata": {"raw": "[" * 100_000}}}, None),
        ({"error": {"message": "`temperature` and `top_p` are fine; no images"}}, None),
        ([], None),
    ],
)  # fmt: skip
def test_rejections_of_other_servers(refusal, name):
    """Of Moonshot, Anthropic, text-generation-inference, Gemini, OpenRouter and Mistral."""
    assert unsupported_field(json.dumps(refusal)) == name


ECHO = {"detail": [{"type": "value_error", "loc": ["body", "messages", 0], "msg": "image refused",
                    "input": BODY}]}  # fmt: skip
TOO_LARGE = (
    "'max_tokens' or 'max_completion_tokens' is too large: 128. This model's maximum context "
    "length is 4096 tokens and your request has 4090 input tokens."
)


@pytest.mark.parametrize(
    "refusal",
    [
        Reply(ECHO, 422),
        refused(TOO_LARGE),
        Reply({"error": {"message": TOO_LARGE, "param": "max_tokens"}}, 400),
        Reply({"error": {"message": "temperature is not supported", "param": "messages"}}, 400),
        Reply({"error": {"message": "this image is not supported", "sent": BODY}}, 400),
        refused(f"Unsupported image. The request was {BODY}"),
        Reply(b"unsupported: temperature, max_tokens", 400),
        Reply({"detail": [{"type": "less_than", "loc": ["body", "max_tokens"], "msg": "9"}]}, 422),
    ],
)  # fmt: skip
def test_rejected_question_keeps_the_fields_of_others(refusal):
    with server(reply_with("a"), refusal, reply_with("b")) as (address, bodies):
        there = endpoint(address)
        assert there.complete(BODY).text == "a"
        with pytest.raises(MGMError, match="refuses"):
            there.complete(BODY)
        assert there.complete(BODY).text == "b"
        assert bodies == [BODY] * 3


def test_replaced_field_needs_a_successful_retry(caplog):
    """The server rejects one question with and without the field."""
    unsupported = refused("temperature is not supported with this image")
    without = {name: value for name, value in BODY.items() if name != "temperature"}
    with server(unsupported, refused("no"), GOOD) as (address, bodies):
        there = endpoint(address)
        with pytest.raises(MGMError, match="refuses"):
            there.complete(BODY)
        assert there.complete(BODY).omitted == ()
        assert bodies == [BODY, without, BODY]
    assert "does not support" not in caplog.text
    with server(unsupported, GOOD) as (address, bodies):
        there = endpoint(address)
        assert [there.complete(BODY).omitted for _ in range(3)] == [("temperature",)] * 3
        assert bodies == [BODY, *[without] * 3]
    assert caplog.text.count("the server does not support temperature; leaving it out") == 1


def test_invalid_usage():
    usage = '{"prompt_tokens": %s, "completion_tokens": 2, "x": null}'
    for odd in ("-5", "true", "1.5", "NaN", "1e400", '"7"', str(10**30)):
        body = '{"choices": [{"message": {"content": "a"}}], "usage": ' + usage % odd + "}"
        with server(Reply(body.encode())) as (address, _):
            assert endpoint(address).complete(BODY).usage == {"completion_tokens": 2}


@pytest.mark.parametrize(
    "thought",
    [
        {"content": "<think>well, it might be", "finish_reason": "length"},
        {"content": None, "reasoning_content": "well", "finish_reason": "length"},
        {"content": None, "reasoning": "well", "finish_reason": "stop"},
        {"content": "", "finish_reason": "length"},  # reasoning that is not in the reply
    ],
)
def test_reasoning_gets_more_tokens(thought):
    def answer(body):
        if body["max_tokens"] > 16:
            return reply_with("<think>well</think> yes")
        message = {name: value for name, value in thought.items() if name != "finish_reason"}
        choice = {"message": message, "finish_reason": thought["finish_reason"]}
        return Reply({"choices": [choice], "usage": {"completion_tokens": 16}})

    with server(answer) as (address, bodies):
        there = endpoint(address)
        first, second = there.complete(BODY), there.complete(BODY)
        assert without_reasoning(first.text) == without_reasoning(second.text) == "yes"
        assert first.usage["completion_tokens"] == 18
        more = 16 + REASONING_TOKENS
        assert [body["max_tokens"] for body in bodies] == [16, more, more]


def test_context_limits_reasoning_tokens():
    def answer(body):
        if body["max_tokens"] > 16:
            return refused("maximum context length is 4096")
        return Reply({"choices": [{"message": {"content": None, "reasoning": "hm"}}]})

    with server(answer) as (address, _):
        assert endpoint(address).complete(BODY) == Completion("", "", "hm")


def test_reasoning_beyond_the_context_skips_one_question():
    """With concurrent requests, of which some have space left."""

    def answer(body):
        text, more = json.dumps(body["messages"]), body["max_tokens"] > 16
        if more and "long" in text:
            return Reply({"error": {"message": "maximum context length"}}, 400, delay=0.2)
        return reply_with("<think>hm" if "think" in text and not more else "yes")

    def respond(there, text):
        return there.complete(BODY | {"messages": [{"role": "user", "content": text}]}).text

    with server(answer) as (address, _):
        there = endpoint(address)
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(respond, there, "think long")
            time.sleep(0.1)
            assert pool.submit(respond, there, "long").result() == "yes"
            assert first.result() == "<think>hm"
        assert respond(there, "think") == "yes"
        assert respond(there, "long") == "yes"
        assert respond(there, "think") == "yes"


def test_content_of_other_types():
    parts = [{"type": "text", "text": "y"}, {"type": "image"}, {"text": None}, 3, {"text": "es"}]
    for content, text in ((parts, "yes"), ("\ud83d!", "\ufffd!"), (3, ""), ({}, ""), (None, "")):
        with server(reply_with(content)) as (address, _):
            assert endpoint(address).complete(BODY).text == text


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("yes", "yes"),
        ("<think>no</think>\nyes", "yes"),
        ("no</think>yes", "yes"),  # the chat template opened the block
        ("<think>no</think><think>not</think>yes", "yes"),
        ("<thinking>no</thinking> yes", "yes"),
        ("<think>no", ""),
        ("", ""),
        ("<think>" * 100_000, ""),
    ],
)
def test_without_reasoning(text, rest):
    assert without_reasoning(text) == rest

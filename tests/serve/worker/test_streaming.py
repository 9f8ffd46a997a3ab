"""Streaming: concurrent choices, errors before and after the first chunk, slow image sites."""

import asyncio
import json
import logging
import threading
import time
import urllib.request
from itertools import pairwise

import anyio
import pytest
from starlette.requests import ClientDisconnect

import mgm
from mgm.engine.core.errors import GenerationError
from mgm.errors import MGMError
from mgm.serve.http.disconnect import run_until_disconnect
from mgm.serve.worker.app import build_worker_app
from mgm.serve.worker.image_download import ImageDownloader
from mgm.serve.worker.image_fetcher import ImageFetcher
from mgm.serve.worker.streaming import EventStream
from mgm.serve.worker.worker import Limits, Worker
from tests.serve.servers import ask, frames, running, wait_for
from tests.serve.worker.conftest import send

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES = {"model": "e", "messages": [{"role": "user", "content": "hi"}]}
PROMPTS = {"model": "e", "prompt": ["a", "b c", "d"]}


def events(url: str, body: dict) -> list[dict]:
    """The server-sent events of a stream, without the last one, which must be [DONE]."""
    request = urllib.request.Request(url, json.dumps(body | {"stream": True}).encode())
    with urllib.request.urlopen(request, timeout=60) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        *received, done = response.read().decode().removesuffix("\n\n").split("\n\n")
    assert done == "data: [DONE]"
    return [json.loads(one.removeprefix("data: ")) for one in received]


@pytest.mark.parametrize(
    ("path", "body"),
    [(CHAT, MESSAGES | {"n": 3}), (COMPLETIONS, PROMPTS), (COMPLETIONS, PROMPTS | {"n": 2})],
)
def test_choices_are_streamed_concurrently(endless_address, path, body):
    body |= {"max_tokens": 60, "temperature": 1, "seed": 7}
    _, whole = ask(f"{endless_address}{path}", body)
    body |= {"stream_options": {"include_usage": True}}
    *chunks, usage = events(f"{endless_address}{path}", body)
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert usage["usage"][name] == whole["usage"][name]
    assert usage["choices"] == []
    choices = [chunk["choices"][0] for chunk in chunks]
    order = [choice["index"] for choice in choices]
    texts = {choice["index"]: "" for choice in choices}
    assert set(order) == set(range(len(whole["choices"])))
    for index in texts:
        own = [choice for choice in choices if choice["index"] == index]
        if path == CHAT:
            assert own[0]["delta"] == {"role": "assistant", "content": ""}
            assert all("role" not in choice["delta"] for choice in own[1:])
        assert [choice["finish_reason"] for choice in own[:-1]] == [None] * (len(own) - 1)
        assert own[-1]["finish_reason"] == whole["choices"][index]["finish_reason"]
        parts = [choice.get("text") or choice.get("delta", {}).get("content", "") for choice in own]
        texts[index] = "".join(parts)
    expected = [one.get("text") or one["message"]["content"] for one in whole["choices"]]
    assert [texts[index] for index in sorted(texts)] == expected
    # All start before any ends, and their chunks alternate.
    begins = [order.index(index) for index in texts]
    ends = [len(order) - 1 - order[::-1].index(index) for index in texts]
    assert max(begins) < min(ends)
    turns = sum(one != other for one, other in pairwise(order))
    assert turns > 3 * len(texts)


def test_error_in_one_choice_ends_the_request(endless_worker, endless_address):
    body = PROMPTS | {"prompt": ["a", "b" * 5000]}
    for stream in (False, True):
        status, answer = ask(f"{endless_address}{COMPLETIONS}", body | {"stream": stream})
        assert status == 400
        assert "model's context has 4096" in answer["error"]["message"]
    wait_for(lambda: not endless_worker.engine.scheduler.busy, 2)
    assert endless_worker.limiter.length == 0


def fail_after(engine: mgm.Engine, tokens: int, error: Exception, monkeypatch) -> None:
    """Make the model raise after a number of output tokens."""
    step = engine.scheduler.step

    def failing() -> None:
        if any(len(one.output) >= tokens for one in engine.scheduler.running):
            engine.scheduler.fail_all(GenerationError(f"the model failed: {error}"))
            raise error
        step()

    monkeypatch.setattr(engine.scheduler, "step", failing)


def test_request_error_in_a_stream_is_an_event(endless_worker, endless_address, monkeypatch):
    fail_after(endless_worker.engine, 20, RuntimeError("broken"), monkeypatch)
    body = MESSAGES | {"n": 3, "max_tokens": 200, "stream": True}
    request = urllib.request.Request(f"{endless_address}{CHAT}", json.dumps(body).encode())
    with urllib.request.urlopen(request) as response:  # a truncated body would raise
        *chunks, last = response.read().decode().removesuffix("\n\n").split("\n\n")
    assert len(chunks) > 3
    error = json.loads(last.removeprefix("data: "))["error"]
    assert (error["type"], error["param"], error["code"]) == ("server_error", None, None)
    assert "the model failed: broken" in error["message"]
    body = {"prompt": "a", "max_new_tokens": 200}
    *shown, last = frames(f"{endless_address}/worker_generate_stream", body)
    assert shown
    assert last["error_code"] == 1
    assert "the model failed" in last["text"]
    assert endless_worker.limiter.length == 0


def test_internal_error_in_a_stream_is_logged(endless_address, monkeypatch, caplog):
    """Its text does not reach the client, whose stream ends regularly."""
    from mgm.serve.openai.responses import ResponseWriter

    def finish_event(*_: object) -> bytes:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(ResponseWriter, "finish_event", finish_event)
    body = MESSAGES | {"max_tokens": 5, "stream": True}
    request = urllib.request.Request(f"{endless_address}{CHAT}", json.dumps(body).encode())
    with (
        caplog.at_level(logging.ERROR, "mgm.serve"),
        urllib.request.urlopen(request) as response,
    ):
        *_, event = response.read().decode().removesuffix("\n\n").split("\n\n")
    error = json.loads(event.removeprefix("data: "))["error"]
    assert error["type"] == "server_error"
    assert "secret" not in event
    assert "ZeroDivisionError: secret" in caplog.text


def test_errors_before_the_first_chunk_have_a_status(endless_address):
    body = MESSAGES | {"messages": [{"role": "user", "content": "x" * 5000}], "stream": True}
    status, answer = ask(f"{endless_address}{CHAT}", body)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"temperature": 10**400}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": [1]}, "temperature"),
        ({"max_new_tokens": 1e999}, "max_new_tokens"),
        ({"max_new_tokens": "many"}, "max_new_tokens"),
        ({"top_p": float("nan")}, "top_p"),
        ({"top_p": -1}, "top_p"),
        ({"temperature": 1e9}, "temperature"),
    ],
)
def test_invalid_numbers_in_the_published_stream(endless_address, caplog, change, field):
    (wrong,) = frames(f"{endless_address}/worker_generate_stream", {"prompt": "a"} | change)
    assert wrong["error_code"] == 1
    assert field in wrong["text"]
    assert not caplog.text


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.0, "top_p": 0.0, "max_new_tokens": 0},
        {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 64},
        {"temperature": "0.2", "top_p": None, "max_new_tokens": 5.0, "stop": None, "images": None},
    ],
)
def test_bodies_of_the_published_page(endless_address, change):
    """Both ends of its sliders, and fields that other clients omit."""
    *_, last = frames(f"{endless_address}/worker_generate_stream", {"prompt": "a"} | change)
    assert (last["error_code"], last["finish_reason"]) == (0, "length")


def test_slow_images_do_not_delay_text(endless_worker, endless_address, dripping_site):
    """Fifty requests with slow URLs wait and time out; a text request takes as long as alone."""
    image = {"type": "image_url", "image_url": {"url": f"{dripping_site}/a.png"}}
    dripping = MESSAGES | {"messages": [{"role": "user", "content": [image]}]}
    text = MESSAGES | {"max_tokens": 5, "temperature": 0}

    def seconds() -> float:
        started = time.perf_counter()
        assert ask(f"{endless_address}{CHAT}", text)[0] == 200
        return time.perf_counter() - started

    seconds()
    alone = sorted(seconds() for _ in range(5))
    answers: list[tuple[int, dict]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(ask(f"{endless_address}{CHAT}", dripping)))
        for _ in range(50)
    ]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    wait_for(lambda: endless_worker.images.downloader.running == 50)
    assert (endless_worker.limiter.running, endless_worker.limiter.waiting) == (0, 50)
    beside = sorted(seconds() for _ in range(5))
    assert beside[2] < alone[2] + 0.5
    for thread in threads:
        thread.join(20)
    assert time.perf_counter() - started < 2 * endless_worker.images.downloader.timeout + 2
    assert [status for status, _ in answers] == [400] * 50
    error = answers[0][1]["error"]
    assert error["message"].startswith(f"image 1 of 1: {dripping_site}/a.png: did not arrive")
    assert "within 2 s" in error["message"]
    assert error["code"] == "invalid_image_url"


def test_downloads_use_the_queue_not_slots(endless_folder, dripping_site):
    images = ImageFetcher(ImageDownloader(True, timeout=20, max_requests=2))
    engine = mgm.load(endless_folder, device="cpu")
    worker = Worker(engine, ("e",), Limits(max_concurrency=1, max_queue=2), images)
    body = {"prompt": "<image>", "images": [f"{dripping_site}/a.png"]}
    with running(build_worker_app(worker)) as address:
        connections = [send(address, "/worker_generate_stream", body) for _ in range(2)]
        wait_for(lambda: images.downloader.running == 2)
        (full,) = frames(f"{address}/worker_generate_stream", body)
        assert full["text"].startswith("2 requests are downloading images")
        text = MESSAGES | {"max_tokens": 2}
        assert ask(f"{address}{CHAT}", text)[0] == 200
        running_one = send(address, CHAT, MESSAGES | {"max_tokens": 4000})
        wait_for(lambda: worker.limiter.running)
        assert ask(f"{address}{CHAT}", text)[0] == 429
        for connection in (*connections, running_one):
            connection.close()
        wait_for(lambda: worker.limiter.length == 0, 2)
        assert ask(f"{address}{CHAT}", text)[0] == 200


def test_listener_of_a_stopped_server(endless_folder):
    """The engine calls it after the event loop was closed."""
    worker = Worker(mgm.load(endless_folder, device="cpu"), ("e",))
    beside = worker.engine.stream(mgm.Request("a", max_new_tokens=1000))
    kept: list[object] = []

    async def leave() -> None:
        async with worker.limiter.queue() as slot:
            await slot.acquire()
            chunks = worker.stream([mgm.Request("hi", max_new_tokens=1000)], 0.0, slot)
            await anext(chunks)
            kept.append(chunks)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    loop.close()
    assert not beside.ended
    text = "".join(beside)
    assert text == worker.engine.answer([mgm.Request("a", max_new_tokens=1000)])[0].text


def test_run_until_disconnect():
    async def main() -> None:
        gone = anyio.Event()

        async def receive() -> dict:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def value() -> int:
            await anyio.sleep(0)
            return 3

        async def error() -> int:
            raise KeyError("as it is")

        async def forever() -> int:
            gone.set()
            await anyio.sleep_forever()
            return 0

        assert await run_until_disconnect(receive, value) == 3
        with pytest.raises(KeyError, match="as it is"):
            await run_until_disconnect(receive, error)
        with anyio.fail_after(2), pytest.raises(ClientDisconnect):
            await run_until_disconnect(receive, forever)

    anyio.run(main)


def test_event_stream_starts_with_its_first_chunk():
    sent: list[dict] = []

    async def send_message(message: dict) -> None:
        sent.append(message)

    async def main() -> None:
        async def receive() -> dict:
            await anyio.sleep_forever()
            return {}

        async def nothing(write) -> None:
            assert not sent

        async def late(write) -> None:
            await write(b"a")
            raise MGMError("late")

        for produce, bodies in ((nothing, [b""]), (late, [b"a", b"!late", b""])):
            sent.clear()
            response = EventStream(produce, lambda error: b"!" + str(error).encode(), "text/plain")
            await response({"type": "http"}, receive, send_message)
            assert sent[0]["status"] == 200
            assert [message["body"] for message in sent[1:]] == bodies
            more = [message["more_body"] for message in sent[1:]]
            assert more == [*[True] * (len(bodies) - 1), False]

    anyio.run(main)

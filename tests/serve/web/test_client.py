"""Requests of the page to our servers, published ones and others."""

import asyncio
import json
from itertools import pairwise
from pathlib import Path

import aiohttp
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, StreamingResponse

import mgm
from benchmarks.published_worker import application as published_application
from mgm.data.text.conversation import build_prompt
from mgm.data.text.templates import get_template
from mgm.errors import MGMError
from mgm.serve.router.app import Controller, build_controller_app
from mgm.serve.router.worker_registry import WorkerRegistry
from mgm.serve.web.client import GenerationSettings, PageClient
from mgm.serve.web.state import ChatHistory, ChatTurn
from mgm.serve.worker.app import build_worker_app
from mgm.serve.worker.worker import Worker
from tests.serve.servers import ROOT, running

NANO = ROOT / "playground" / "mgm-nano"
RECEIPT = ROOT / "images" / "receipt.png"
GREEDY = GenerationSettings(temperature=0, top_p=1, max_new_tokens=32)


def history_of(*questions: str, images: tuple[Path, ...] = (RECEIPT,)) -> ChatHistory:
    """A history whose last question has no answer."""
    turns = [ChatTurn(question) for question in questions]
    turns[0].images = images
    for turn in turns[:-1]:
        turn.answer = "Honey"
    return ChatHistory(turns)


def streamed(client: PageClient, history: ChatHistory, model: str = "nano") -> list[str]:
    async def read() -> list[str]:
        return [one.text async for one in client.stream(history, model, GREEDY)]

    return asyncio.run(read())


def expected_answer(engine: mgm.Engine, history: ChatHistory) -> str:
    *before, last = history.turns
    turns = [(turn.question, turn.answer) for turn in before]
    request = mgm.Request(
        last.question, images=[RECEIPT], history=turns, max_new_tokens=32, temperature=0
    )
    return engine.answer([request])[0].text


@pytest.fixture(scope="module")
def engine():
    return mgm.load(NANO, device="cpu")


@pytest.mark.parametrize("questions", [("What is the total?",), ("Which?", "What is the total?")])
def test_worker_alone_and_behind_a_controller(engine, questions):
    worker = Worker(mgm.load(NANO, device="cpu"), ("nano",))
    history = history_of(*questions)
    registry = WorkerRegistry()
    with (
        running(build_worker_app(worker)) as alone,
        running(build_controller_app(Controller(registry))) as controller,
    ):
        registry.register(alone, worker.status(), False)
        for address in (alone, controller):
            client = PageClient(address)
            assert asyncio.run(client.models()) == ["nano"]
            texts = streamed(client, history)
            assert texts[-1] == expected_answer(engine, history)
            assert all(later.startswith(one) for one, later in pairwise(texts))
            with pytest.raises(MGMError, match="other"):
                streamed(client, history, "other")


def published_controller(worker: str) -> FastAPI:
    """The endpoints of a published controller that pages use."""
    app = FastAPI()
    for path, answer in (
        ("refresh_all_workers", None),
        ("list_models", {"models": ["nano"]}),
        ("get_worker_address", {"address": worker}),
    ):
        app.post(f"/{path}")(lambda answer=answer: answer)
    return app


def test_published_workers_and_controllers(engine, monkeypatch):
    """They get the prompt of published pages, and their streams are parsed."""
    monkeypatch.setattr("mgm.serve.web.client.PUBLISHED_TEMPLATES", {"nano": "nano"})
    history = history_of("What is the total?")
    # Published pages append the image to the question.
    text = build_prompt(get_template("nano"), [("What is the total?\n<image>", None)])
    raw = mgm.Request(text, images=[RECEIPT], max_new_tokens=32, temperature=0, raw=True)
    expected = engine.answer([raw])[0].text.strip()
    published = published_application(mgm.load(NANO, device="cpu", attention="eager"))
    status = {"model_names": ["nano"], "speed": 1, "queue_length": 0}
    published.post("/worker_get_status")(lambda: status)
    registry = WorkerRegistry()
    with (
        running(published) as worker,
        running(published_controller(worker)) as old,
        running(build_controller_app(Controller(registry))) as ours,
    ):
        registry.register(worker, status, False)
        for address in (old, ours):
            client = PageClient(address)
            assert asyncio.run(client.models()) == ["nano"]
            assert streamed(client, history)[-1] == expected
            with pytest.raises(MGMError, match="too old"):
                asyncio.run(client.attribution(history, "nano"))


def test_prompt_equals_that_of_published_pages():
    """Expected texts follow gradio_web_server.py and conversation.py's vicuna_v1."""
    seen = []
    app = FastAPI()

    @app.post("/get_worker_address")
    async def worker_address(request: Request) -> dict:
        return {"address": str(request.base_url).rstrip("/")}

    @app.post("/worker_generate_stream")
    async def stream(request: Request) -> StreamingResponse:
        body = await request.json()
        seen.append(body)
        frames = [
            json.dumps({"text": body["prompt"] + " " + text, "error_code": 0}).encode() + b"\0"
            for text in ("a", "a cat")
        ]
        # Network chunks may split frames anywhere.
        whole = b"".join(frames)
        return StreamingResponse(iter([whole[:7], whole[7:31], whole[31:]]))

    with running(app) as address:
        texts = streamed(PageClient(address), history_of("What is it?", "Sure?"), "MGM-7B")
    assert texts[-1] == "a cat"
    assert seen[0]["prompt"] == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the user's questions. USER: What is it?\n"
        "<image> ASSISTANT: Honey</s>USER: Sure? ASSISTANT:"
    )
    assert seen[0]["stop"] == "</s>"
    assert len(seen[0]["images"]) == 1
    assert not seen[0]["use_ocr"]


def test_errors():
    nobody = PageClient("http://127.0.0.1:9")
    with pytest.raises(MGMError, match=r"cannot connect to http://127\.0\.0\.1:9"):
        asyncio.run(nobody.models())
    with pytest.raises(MGMError, match="cannot connect to"):
        streamed(nobody, history_of("hello", images=()))
    app = FastAPI()
    chat = ["half"]

    @app.post("/v1/chat/completions")
    async def complete() -> StreamingResponse:
        event = {"choices": [{"delta": {"content": "half"}}]}

        async def chunks():
            yield b"data: " + json.dumps(event).encode() + b"\n\n"
            if chat == ["torn"]:
                raise aiohttp.ClientError

        return StreamingResponse(chunks())

    @app.post("/list_models")
    @app.post("/refresh_all_workers")
    async def list_models() -> PlainTextResponse:
        return PlainTextResponse("<html>")

    @app.post("/v1/attribution")
    async def attribution() -> dict:
        return {"images": [{"view": "no"}]}

    with running(app) as address:
        client = PageClient(address)
        for kind in ("half", "torn"):
            chat[0] = kind
            with pytest.raises(MGMError, match="the connection was lost"):
                streamed(client, history_of("hello", images=()))
        with pytest.raises(MGMError, match="invalid JSON"):
            asyncio.run(client.models())
        with pytest.raises(MGMError, match="malformed attribution"):
            asyncio.run(client.attribution(history_of("hello"), "nano"))


def test_api_key_is_sent_to_the_controller_only():
    """A published controller returns a worker's address, which gets no key."""
    from tests.serve.router.fake_worker import fake_worker, http, json_answer

    def answer(connection, request: bytes) -> None:
        if b"POST /get_worker_address" in request:
            connection.sendall(json_answer({"address": worker.address}))
        else:
            connection.sendall(http(b"{}", "404 Not Found"))

    def stream(connection, _: bytes) -> None:
        connection.sendall(http(b'{"text": "hi", "error_code": 0}\0'))

    with fake_worker(answer) as controller, fake_worker(stream) as worker:
        streamed(PageClient(controller.address, "secret"), history_of("What?"))
        assert all(b"Bearer secret" in request for request in controller.requests)
        assert len(worker.requests) == 1
        assert b"secret" not in worker.requests[0]

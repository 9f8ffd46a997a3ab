"""A model behind HTTP: the published endpoints of a worker, and the OpenAI API."""

import base64
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import anyio
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from mgm.engine.attribution.mining import mined_details
from mgm.engine.core.request import Answer
from mgm.errors import MGMError
from mgm.serve.http.attribution_json import mined_body
from mgm.serve.http.concurrency_limit import FullError
from mgm.serve.http.middleware import application, json_body
from mgm.serve.http.openai_requests import (
    Asked,
    BadRequestError,
    answered_request,
    chat_request,
    completion_request,
    drawing_request,
)
from mgm.serve.openai.responses import DONE, SSE, Writer, error_body, event, models_body
from mgm.serve.worker.legacy_stream import published_stream
from mgm.serve.worker.worker import Worker

logger = logging.getLogger("mgm.serve")


def worker_application(worker: Worker, **options: Any) -> FastAPI:
    """The endpoints of a worker.

    Args:
        worker: that answers.
        **options: as for `application`.
    """
    app = application("mgm worker", **options)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "draining" if worker.admission.closed else "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(worker.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.post("/worker_get_status")
    async def status() -> dict[str, Any]:
        return worker.status()

    @app.post("/worker_generate_stream")
    async def published(request: Request) -> StreamingResponse:
        body = await json_body(request)
        return StreamingResponse(published_stream(worker, body), media_type="text/plain")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return models_body([*worker.names, *worker.drawers], worker.created)

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        _check_model(worker, name)
        return models_body([name], worker.created)["data"][0]

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await json_body(request)
        takes_system = bool(worker.engine.template.layout.system)

        def read() -> Asked:
            return chat_request(body, worker.images.fetch, worker.limits.tokens, takes_system)

        return await _openai(worker, read, True)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        body = await json_body(request)
        return await _openai(worker, lambda: completion_request(body, worker.limits.tokens), False)

    @app.post("/v1/images/generations")
    async def images(request: Request) -> Response:
        asked = drawing_request(await json_body(request), worker.companions.drawer_name)
        draw = worker.companions.draw
        async with worker.answering("images"):
            drawn = [
                await worker.in_thread(draw, asked.text, seed, asked.size) for seed in asked.seeds
            ]
        data = [{"b64_json": base64.b64encode(content).decode()} for content in drawn]
        return JSONResponse({"created": int(time.time()), "data": data})

    @app.post("/v1/mined")
    async def mined(request: Request) -> JSONResponse:
        body = await json_body(request)

        def look() -> dict[str, Any]:
            name, asked, answer = answered_request(body, worker.images.fetch)
            _check_model(worker, name)
            return mined_body(mined_details(worker.engine, asked, answer))

        async with worker.answering("mined"):
            return JSONResponse(await worker.in_thread(look))

    return app


def _check_model(worker: Worker, name: str) -> None:
    if name not in worker.names:
        raise BadRequestError(
            f"the model {name!r:.100} does not exist; choose from {', '.join(worker.names)}",
            "model",
            404,
            "model_not_found",
        )


async def _openai(worker: Worker, read: Callable[[], Asked], chat: bool) -> Response:
    """Answer a body of the OpenAI API."""
    begun = time.perf_counter()
    endpoint = "chat" if chat else "completions"
    if worker.admission.closed:
        raise FullError("this server is shutting down; ask another one")
    asked: Asked = await worker.in_thread(read)  # images are opened there
    _check_model(worker, asked.model)
    asked = await worker.prepared(asked)
    writer = Writer(asked.model, worker.engine.processor.tokenizer, chat)
    if not asked.stream:
        async with worker.answering(endpoint):
            answers = await _all(worker, asked, begun)
            images = {}
            for number, answer in enumerate(answers if asked.gen_image else ()):
                drawn = await worker.drawn(answer, asked.requests[number].seed)
                images |= {} if drawn is None else {number: drawn}
        return JSONResponse(writer.whole(answers, images))
    pieces = _events(worker, asked, writer, endpoint, begun)
    # What is wrong before the first piece is an error of HTTP, not of the stream.
    first = await anext(pieces)

    async def rest() -> AsyncGenerator[bytes]:
        try:
            yield first
            async for piece in pieces:
                yield piece
        finally:
            await pieces.aclose()

    return StreamingResponse(rest(), media_type="text/event-stream", headers=SSE)


async def _all(worker: Worker, asked: Asked, begun: float) -> list[Answer]:
    """All choices, written together."""
    answers: dict[int, Answer] = {}

    async def one(number: int) -> None:
        async for piece in worker.pieces(asked.requests[number], begun):
            if piece.answer is not None:
                answers[number] = piece.answer

    faults: list[BaseException] = []
    try:
        async with anyio.create_task_group() as group:
            for number in range(len(asked.requests)):
                group.start_soon(one, number)
    except* MGMError as errors:
        faults += errors.exceptions
    if faults:
        raise faults[0]
    return [answers[number] for number in sorted(answers)]


async def _events(
    worker: Worker, asked: Asked, writer: Writer, endpoint: str, begun: float
) -> AsyncGenerator[bytes]:
    """The server-sent events of all choices, one after the other."""
    answers: list[Answer] = []
    opened = False
    try:
        async with worker.answering(endpoint):
            for number, request in enumerate(asked.requests):
                begins = True
                async with aclosing(worker.pieces(request, begun)) as pieces:
                    async for piece in pieces:
                        if begins and writer.chat:
                            yield writer.first(number)
                        begins, opened = False, True
                        if piece.text or piece.choices:
                            yield writer.text(number, piece.text, piece.choices)
                        if piece.answer is not None:
                            answers.append(piece.answer)
                            if asked.gen_image:
                                drawn = await worker.drawn(piece.answer, request.seed)
                                if drawn is not None:
                                    yield writer.image(number, drawn)
                            yield writer.last(number, piece.answer)
        if asked.include_usage:
            yield writer.counts(answers)
        yield DONE
    except MGMError as error:
        if not opened:
            raise
        yield event(error_body(str(error), "server_error"))

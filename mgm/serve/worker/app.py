"""A model behind HTTP: the published endpoints of a worker, and the OpenAI API."""

import base64
import time
from collections.abc import Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from mgm.engine.attribution.mining import mined_details
from mgm.engine.core.errors import GenerationError
from mgm.engine.core.request import Answer
from mgm.errors import MGMError
from mgm.serve.http.attribution_json import encode_attribution
from mgm.serve.http.disconnect import run_until_disconnect
from mgm.serve.http.middleware import build_app
from mgm.serve.http.openapi import describe_bodies
from mgm.serve.openai.errors import model_not_found, parse_body
from mgm.serve.openai.protocol import (
    BODIES,
    AttributionBody,
    ChatCompletionBody,
    CompletionBody,
    ImageGenerationBody,
)
from mgm.serve.openai.requests import (
    ParsedRequest,
    parse_attribution_request,
    parse_chat_request,
    parse_completion_request,
    parse_image_request,
)
from mgm.serve.openai.responses import (
    DONE,
    SSE_HEADERS,
    ResponseWriter,
    error_body,
    model_list,
    sse_event,
)
from mgm.serve.worker.legacy_stream import legacy_response
from mgm.serve.worker.streaming import EventStream, Write
from mgm.serve.worker.worker import Worker


def build_worker_app(worker: Worker, **options: Any) -> FastAPI:
    """The endpoints of a worker.

    Args:
        worker: that answers.
        **options: as for `build_app`.
    """
    app = build_app("mgm worker", **options)

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
    async def published(request: Request) -> Response:
        return legacy_response(worker, await request.body())

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return model_list([*worker.names, *worker.drawers], worker.created)

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        _check_model(worker, name)
        return model_list([name], worker.created)["data"][0]

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = parse_body(ChatCompletionBody, await request.body())
        parsed = parse_chat_request(body, worker.engine.template, worker.limits.tokens)
        return await _openai(worker, request, parsed, chat=True)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        body = parse_body(CompletionBody, await request.body())
        parsed = parse_completion_request(body, worker.limits.tokens)
        return await _openai(worker, request, parsed, chat=False)

    @app.post("/v1/images/generations")
    async def images(request: Request) -> Response:
        body = parse_body(ImageGenerationBody, await request.body())
        wanted = parse_image_request(body, worker.companions.image_model)

        async def draw() -> list[bytes]:
            async with worker.request_slot("images", worker.drawing) as slot:
                await slot.acquire()
                return [await worker.draw(wanted.text, seed, wanted.size) for seed in wanted.seeds]

        drawn = await run_until_disconnect(request.receive, draw)
        data = [{"b64_json": base64.b64encode(content).decode()} for content in drawn]
        return JSONResponse({"created": int(time.time()), "data": data})

    @app.post("/v1/mined")
    async def mined(request: Request) -> JSONResponse:
        body = parse_body(AttributionBody, await request.body())
        parsed, answer = parse_attribution_request(body, worker.engine.template)
        _check_model(worker, parsed.model)

        def look(images: Sequence[bytes]) -> dict[str, Any]:
            (asked,) = parsed.requests(images)
            return encode_attribution(mined_details(worker.engine, asked, answer))

        async def respond() -> dict[str, Any]:
            async with worker.request_slot("mined") as slot:
                images = await worker.images.fetch_all(parsed.sources)
                await slot.acquire()
                return await worker.in_thread(look, images)

        return JSONResponse(await run_until_disconnect(request.receive, respond))

    describe_bodies(app, BODIES)
    return app


def _check_model(worker: Worker, name: str) -> None:
    if name not in worker.names:
        raise model_not_found(name, worker.names)


async def _openai(worker: Worker, http: Request, parsed: ParsedRequest, chat: bool) -> Response:
    """Answer a request of the OpenAI API."""
    _check_model(worker, parsed.model)
    writer = ResponseWriter(parsed.model, chat)
    if parsed.stream:
        produce = partial(_write_events, worker, parsed, writer, time.perf_counter())
        return EventStream(produce, _error_event, "text/event-stream", SSE_HEADERS)
    respond = partial(_whole, worker, parsed, writer, time.perf_counter())
    return JSONResponse(await run_until_disconnect(http.receive, respond))


async def _whole(
    worker: Worker, parsed: ParsedRequest, writer: ResponseWriter, started: float
) -> dict[str, Any]:
    """All choices, when they are complete."""
    answers: dict[int, Answer] = {}
    images: dict[int, bytes] = {}
    async with worker.request_slot(_endpoint(writer)) as slot:
        requests = await worker.prepare(parsed)
        await slot.acquire(len(requests))
        async with aclosing(worker.pieces(requests, started, slot)) as pieces:
            async for index, piece in pieces:
                if piece.answer is not None:
                    answers[index] = piece.answer
        if parsed.gen_image:
            for index, answer in sorted(answers.items()):
                image = await worker.drawn(answer, requests[index].seed)
                images |= {} if image is None else {index: image}
    return writer.whole([answers[index] for index in sorted(answers)], images)


async def _write_events(
    worker: Worker, parsed: ParsedRequest, writer: ResponseWriter, started: float, write: Write
) -> None:
    """Write the server-sent events of all choices as they come."""
    answers: dict[int, Answer] = {}
    opened: set[int] = set()
    async with worker.request_slot(_endpoint(writer)) as slot:
        requests = await worker.prepare(parsed)
        await slot.acquire(len(requests))
        async with aclosing(worker.pieces(requests, started, slot)) as pieces:
            async for index, piece in pieces:
                if writer.chat and index not in opened:
                    opened.add(index)
                    await write(writer.first(index))
                if piece.text or piece.choices:
                    await write(writer.text(index, piece.text, piece.choices))
                if piece.answer is not None:
                    answers[index] = piece.answer
                    if not parsed.gen_image:
                        await write(writer.last(index, piece.answer))
        if parsed.gen_image:
            for index, answer in sorted(answers.items()):
                image = await worker.drawn(answer, requests[index].seed)
                if image is not None:
                    await write(writer.image(index, image))
                await write(writer.last(index, answer))
    if parsed.include_usage:
        await write(writer.counts(list(answers.values())))
    await write(DONE)


def _endpoint(writer: ResponseWriter) -> str:
    return "chat" if writer.chat else "completions"


def _error_event(error: MGMError) -> bytes:
    kind = "server_error" if isinstance(error, GenerationError) else "invalid_request_error"
    return sse_event(error_body(str(error), kind))

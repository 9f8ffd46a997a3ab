"""FastAPI application of a worker: the OpenAI API and the published worker's endpoints."""

import base64
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from mgm.engine.attribution.mining import attribute_mining
from mgm.engine.core import request as engine_request
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
    """Build the FastAPI application of a worker.

    Args:
        worker: handles the requests.
        **options: options of `build_app`.
    """
    app = build_app("mgm worker", **options)
    _add_status_endpoints(app, worker)
    _add_generation_endpoints(app, worker)
    _add_image_endpoints(app, worker)
    describe_bodies(app, BODIES)
    return app


def _add_status_endpoints(app: FastAPI, worker: Worker) -> None:
    """Health, metrics, and the models that are served."""

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "draining" if worker.limiter.closed else "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(worker.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.post("/worker_get_status")
    async def status() -> dict[str, Any]:
        return worker.status()

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return model_list([*worker.names, *worker.image_models], worker.created)

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        _check_model(worker, name)
        return model_list([name], worker.created)["data"][0]


def _add_generation_endpoints(app: FastAPI, worker: Worker) -> None:
    """Chat and text completions, and the published worker's stream."""

    @app.post("/worker_generate_stream")
    async def generate_stream(request: Request) -> Response:
        return legacy_response(worker, await request.body())

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = parse_body(ChatCompletionBody, await request.body())
        parsed = parse_chat_request(body, worker.engine.template, worker.limits.max_tokens)
        return await _respond(worker, request, parsed, chat=True)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        body = parse_body(CompletionBody, await request.body())
        parsed = parse_completion_request(body, worker.limits.max_tokens)
        return await _respond(worker, request, parsed, chat=False)


def _add_image_endpoints(app: FastAPI, worker: Worker) -> None:
    """Image generation, and attribution of an answer to the pixels of its images."""

    @app.post("/v1/images/generations")
    async def images(request: Request) -> Response:
        body = parse_body(ImageGenerationBody, await request.body())
        parsed = parse_image_request(body, worker.tools.image_model)

        async def generate() -> list[bytes]:
            async with worker.request_slot("images", worker.image_limiter) as slot:
                await slot.acquire()
                return [
                    await worker.generate_image(parsed.prompt, seed, parsed.size)
                    for seed in parsed.seeds
                ]

        contents = await run_until_disconnect(request.receive, generate)
        data = [{"b64_json": base64.b64encode(content).decode()} for content in contents]
        return JSONResponse({"created": int(time.time()), "data": data})

    @app.post("/v1/attribution")
    @app.post("/v1/mined", include_in_schema=False)  # its name in earlier versions
    async def attribution(request: Request) -> JSONResponse:
        body = parse_body(AttributionBody, await request.body())
        parsed, answer = parse_attribution_request(body, worker.engine.template)
        _check_model(worker, parsed.model)

        def attribute(images: Sequence[bytes]) -> dict[str, Any]:
            (engine_input,) = parsed.requests(images)
            return encode_attribution(attribute_mining(worker.engine, engine_input, answer))

        async def respond() -> dict[str, Any]:
            async with worker.request_slot("attribution") as slot:
                images = await worker.images.fetch_all(parsed.sources)
                await slot.acquire()
                return await worker.in_thread(attribute, images)

        return JSONResponse(await run_until_disconnect(request.receive, respond))


def _check_model(worker: Worker, name: str) -> None:
    if name not in worker.names:
        raise model_not_found(name, worker.names)


async def _respond(worker: Worker, http: Request, parsed: ParsedRequest, chat: bool) -> Response:
    """Respond to a chat or text completion, streamed (SSE) or complete."""
    _check_model(worker, parsed.model)
    writer = ResponseWriter(parsed.model, chat)
    if parsed.stream:
        produce = partial(_stream_completion, worker, parsed, writer, time.perf_counter())
        return EventStream(produce, _error_event, "text/event-stream", SSE_HEADERS)
    complete = partial(_complete, worker, parsed, writer, time.perf_counter())
    return JSONResponse(await run_until_disconnect(http.receive, complete))


async def _complete(
    worker: Worker, parsed: ParsedRequest, writer: ResponseWriter, start_time: float
) -> dict[str, Any]:
    """The body of a completion that is not streamed."""
    images: dict[int, bytes] = {}
    async with worker.request_slot(writer.endpoint) as slot:
        requests = await worker.prepare(parsed)
        await slot.acquire(len(requests))
        answers = await worker.complete(requests, start_time, slot)
        if parsed.gen_image:
            generated = _generate_images(worker, requests, dict(enumerate(answers)))
            images = {index: image async for index, image in generated if image is not None}
    return writer.completion(answers, images)


async def _stream_completion(
    worker: Worker, parsed: ParsedRequest, writer: ResponseWriter, start_time: float, write: Write
) -> None:
    """Write the server-sent events of all choices as they are generated."""
    answers: dict[int, Answer] = {}
    opened: set[int] = set()  # choices whose first event was written
    async with worker.request_slot(writer.endpoint) as slot:
        requests = await worker.prepare(parsed)
        await slot.acquire(len(requests))
        async with aclosing(worker.stream(requests, start_time, slot)) as chunks:
            async for index, chunk in chunks:
                events = writer.delta_events(
                    index, chunk.text, chunk.tokens, is_first=index not in opened
                )
                opened.add(index)
                if chunk.answer is not None:
                    answers[index] = chunk.answer
                    events += b"" if parsed.gen_image else writer.finish_event(index, chunk.answer)
                if events:
                    await write(events)
        if parsed.gen_image:
            async for index, image in _generate_images(worker, requests, answers):
                events = b"" if image is None else writer.image_event(index, image)
                await write(events + writer.finish_event(index, answers[index]))
    if parsed.include_usage:
        await write(writer.usage_event(list(answers.values())))
    await write(DONE)


async def _generate_images(
    worker: Worker, requests: Sequence[engine_request.Request], answers: Mapping[int, Answer]
) -> AsyncGenerator[tuple[int, bytes | None]]:
    """Generate the images that answers ask for: PNG files by index of the choice."""
    for index, answer in sorted(answers.items()):
        yield index, await worker.image_of(answer, requests[index].seed)


def _error_event(error: MGMError) -> bytes:
    kind = "server_error" if isinstance(error, GenerationError) else "invalid_request_error"
    return sse_event(error_body(str(error), kind))

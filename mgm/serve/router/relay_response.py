"""A worker's answer as it is passed back to a client, and the errors in its place."""

import json
from functools import partial
from typing import Protocol

import aiohttp
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from mgm.errors import MGMError
from mgm.serve.http.disconnect import run_until_disconnect
from mgm.serve.http.wire import NO_WORKER, WORKER_LOST, encode_frame
from mgm.serve.openai.errors import BadRequestError
from mgm.serve.openai.responses import DONE, SSE_HEADERS, error_body, sse_event
from mgm.serve.router.relay import Relay, RelayedRequest, safe_headers
from mgm.serve.router.worker_client import WorkerLostError
from mgm.serve.router.worker_registry import WorkerInfo

SPOOL_BYTES = 2**20  # of an answer that is no stream; a longer one is passed back as it comes
TAIL = 32  # bytes at the end of a stream that tell whether it is complete
LOST = "worker disconnected before finishing; retry"
# Types of answers that clients of the API read. A worker's web page, which a browser would run with
# the controller's origin, is passed back as bytes.
CONTENT_TYPES = {
    *("application/json", "text/event-stream", "text/plain", "application/octet-stream"),
    *("image/png", "image/jpeg", "image/webp"),
}
PASSED_BACK = (  # headers of an answer
    *("content-type", "content-encoding", "retry-after", "x-request-id", "openai-processing-ms"),
    *("cache-control", "x-accel-buffering"),
)


class StreamErrors(Protocol):
    """How an endpoint says that something went wrong."""

    def response(self, message: str, error: MGMError) -> Response:
        """Before the first byte of an answer."""
        ...

    def last_chunk(self, message: str, before: bytes) -> bytes:
        """At the end of a stream, whose last bytes were `before`."""
        ...

    def is_end(self, before: bytes) -> bool:
        """Whether a stream whose last bytes were `before` is complete."""
        ...


class OpenAIErrors:
    """Errors in OpenAI's shape, by status or as an event."""

    def response(self, message: str, error: MGMError) -> Response:
        """A JSON object; the status says whose fault it is."""
        if isinstance(error, BadRequestError):
            kind = "server_error" if error.status >= 500 else "invalid_request_error"
            body = error_body(message, kind, error.field, error.code)
            headers = {"Retry-After": "1"} if error.status == 503 else None
            return JSONResponse(body, error.status, headers)
        return JSONResponse(error_body(message, "server_error"), 502)

    def last_chunk(self, message: str, before: bytes) -> bytes:
        """An event of its own."""
        end = b"" if before.endswith(b"\n\n") or not before else b"\n\n"
        return end + sse_event(error_body(message, "server_error"))

    def is_end(self, before: bytes) -> bool:
        """The event that comes last."""
        return before.rstrip().endswith(DONE.rstrip())


class LegacyErrors:
    """Errors as frames of the published stream, whose status is always 200."""

    def response(self, message: str, error: MGMError) -> Response:
        """One frame."""
        code = NO_WORKER if isinstance(error, BadRequestError) else WORKER_LOST
        return Response(encode_frame(message, code), media_type="text/plain")

    def last_chunk(self, message: str, before: bytes) -> bytes:
        """A frame of its own."""
        end = b"" if before.endswith(b"\0") or not before else b"\0"
        return end + encode_frame(message, WORKER_LOST)

    def is_end(self, before: bytes) -> bool:
        """The NUL of a frame; a last frame has no mark."""
        return before.endswith(b"\0")


class RelayResponse(Response):
    """A worker's answer; where the client leaves, the connection to the worker is closed.

    Args:
        relay: sends the request.
        request: of the client.
        errors: how they are said.
        streams: whether every answer is a stream; else those of server-sent events are.
    """

    def __init__(
        self, relay: Relay, request: RelayedRequest, errors: StreamErrors, streams: bool = False
    ) -> None:
        super().__init__()
        self.relay, self.request, self.errors, self.streams = relay, request, errors, streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        try:
            await run_until_disconnect(receive, partial(self._relay, scope, receive, send))
        except ClientDisconnect:
            self.relay.outcomes.labels("cancelled").inc()

    async def _relay(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with self.relay.sent(self.request) as (worker, response):
                streams = self.streams or response.content_type == "text/event-stream"
                if response.status == 200 and streams:
                    await self._send_stream(worker, response, send)
                else:
                    await self._send_whole(worker, response, scope, receive, send)
        except MGMError as error:
            text = LOST if isinstance(error, WorkerLostError) else str(error)
            if not isinstance(error, BadRequestError):
                self.relay.outcomes.labels("gone").inc()
            await self.errors.response(text, error)(scope, receive, send)

    async def _send_stream(
        self, worker: WorkerInfo, response: aiohttp.ClientResponse, send: Send
    ) -> None:
        headers = (
            {} if self.streams else {name.lower(): value for name, value in SSE_HEADERS.items()}
        )
        headers |= _response_headers(response)
        await _send_start(send, response.status, headers)
        before = b""
        try:
            while chunk := await self.relay.read(worker, response):
                await _send_chunk(send, chunk)
                before = (before + chunk)[-TAIL:]
            if not (_is_framed(response) or self.errors.is_end(before)):
                raise WorkerLostError("its stream broke off")
        except WorkerLostError as error:
            self.relay.outcomes.labels("gone").inc()
            await _send_chunk(send, self.errors.last_chunk(LOST, before))
            self.relay.report(worker, error)
        else:
            self.relay.answered(worker, response.status)
        await _send_chunk(send, b"", more=False)

    async def _send_whole(
        self,
        worker: WorkerInfo,
        response: aiohttp.ClientResponse,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Pass an answer back when it is complete, so that a worker's end is an error of HTTP."""
        headers = _response_headers(response)
        content = bytearray()
        while chunk := await self.relay.read(worker, response):
            content += chunk
            if len(content) > SPOOL_BYTES:
                break
        else:
            _check_complete(response, bytes(content))
            self.relay.answered(worker, response.status)
            await Response(bytes(content), response.status, headers)(scope, receive, send)
            return
        if response.content_length is not None:
            headers["content-length"] = str(response.content_length)
        await _send_start(send, response.status, headers)
        await _send_chunk(send, bytes(content))
        try:
            while chunk := await self.relay.read(worker, response):
                await _send_chunk(send, chunk)
        except WorkerLostError as error:
            self.relay.outcomes.labels("gone").inc()
            self.relay.report(worker, error)
            return  # without an end, for which the server closes the connection
        self.relay.answered(worker, response.status)
        await _send_chunk(send, b"", more=False)


def _response_headers(response: aiohttp.ClientResponse) -> dict[str, str]:
    """Headers of a worker's answer as they are passed back."""
    headers = safe_headers(response.headers, PASSED_BACK)
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and kind not in CONTENT_TYPES:
        headers["content-type"] = "application/octet-stream"
    return headers | {"x-content-type-options": "nosniff"}


def _is_framed(response: aiohttp.ClientResponse) -> bool:
    """Whether HTTP says where a response ends; else it ends as the connection does, or breaks."""
    codings = response.headers.get("Transfer-Encoding", "").lower()
    return "chunked" in codings or "Content-Length" in response.headers


def _check_complete(response: aiohttp.ClientResponse, content: bytes) -> None:
    """Refuse JSON that ends too early, where nothing else tells."""
    if response.content_type == "application/json" and not _is_framed(response):
        try:
            json.loads(content)
        except (ValueError, RecursionError) as error:
            raise WorkerLostError("its response is no complete JSON") from error


async def _send_start(send: Send, status: int, headers: dict[str, str]) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def _send_chunk(send: Send, chunk: bytes, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": chunk, "more_body": more})

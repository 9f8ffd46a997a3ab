"""The relayed response: streamed (SSE) or complete, and the errors where a worker fails."""

import json
from functools import partial
from typing import Protocol

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from mgm.errors import MGMError
from mgm.serve.http.disconnect import run_until_disconnect
from mgm.serve.http.wire import NO_WORKER, WORKER_LOST, encode_frame
from mgm.serve.limits.bounded_response import BoundedResponse
from mgm.serve.openai.errors import BadRequestError
from mgm.serve.openai.responses import DONE, SSE_HEADERS, error_body, sse_event
from mgm.serve.router.relay import Relay, RelayedRequest, safe_headers
from mgm.serve.router.worker_client import WorkerLostError
from mgm.serve.router.worker_registry import WorkerInfo

SPOOL_BYTES = 2**20  # a response is held back up to this size, so that errors have a status
TAIL_BYTES = 32  # last bytes of a stream, which show whether it is complete
WORKER_LOST_MESSAGE = "worker disconnected before finishing; retry"
# Content types of the API. Others are returned as application/octet-stream: a browser would run a
# web page with the controller's origin.
CONTENT_TYPES = {
    *("application/json", "text/event-stream", "text/plain", "application/octet-stream"),
    *("image/png", "image/jpeg", "image/webp"),
}
RETURNED_HEADERS = (  # headers of a worker's response that the client gets
    *("content-type", "content-encoding", "retry-after", "x-request-id", "openai-processing-ms"),
    *("cache-control", "x-accel-buffering"),
)


class StreamErrors(Protocol):
    """Error format of an endpoint, in responses and in streams."""

    def response(self, message: str, error: MGMError) -> Response:
        """The response to an error before the first byte of the worker's response."""
        ...

    def last_chunk(self, message: str, tail: bytes) -> bytes:
        """The error as the final chunk of a stream that failed after the bytes `tail`."""
        ...

    def is_end(self, tail: bytes) -> bool:
        """Whether a stream that ends with the bytes `tail` is complete, not cut off."""
        ...


class OpenAIErrors:
    """Errors in OpenAI's shape: a JSON body with a status, or a server-sent event."""

    def response(self, message: str, error: MGMError) -> Response:
        """A JSON body with HTTP status 4xx (error of the client) or 5xx (error of the server)."""
        if isinstance(error, BadRequestError):
            kind = "server_error" if error.status >= 500 else "invalid_request_error"
            body = error_body(message, kind, error.field, error.code)
            headers = {"Retry-After": "1"} if error.status == 503 else None
            return JSONResponse(body, error.status, headers)
        return JSONResponse(error_body(message, "server_error"), 502)

    def last_chunk(self, message: str, tail: bytes) -> bytes:
        """The error as a server-sent event of its own."""
        end = b"" if tail.endswith(b"\n\n") or not tail else b"\n\n"
        return end + sse_event(error_body(message, "server_error"))

    def is_end(self, tail: bytes) -> bool:
        """Whether the stream ends with the event `[DONE]`."""
        return tail.rstrip().endswith(DONE.rstrip())


class LegacyErrors:
    """Errors as frames of the published stream, whose HTTP status is always 200."""

    def response(self, message: str, error: MGMError) -> Response:
        """The error as a stream of one frame."""
        code = NO_WORKER if isinstance(error, BadRequestError) else WORKER_LOST
        return Response(encode_frame(message, code), media_type="text/plain")

    def last_chunk(self, message: str, tail: bytes) -> bytes:
        """The error as a frame of its own."""
        end = b"" if tail.endswith(b"\0") or not tail else b"\0"
        return end + encode_frame(message, WORKER_LOST)

    def is_end(self, tail: bytes) -> bool:
        """Whether the stream ends with a complete frame: the format has no mark of the last one."""
        return tail.endswith(b"\0")


class RelayResponse(Response):
    """A worker's response; if the client disconnects, the connection to the worker is closed.

    Args:
        relay: sends the request.
        request: request of the client.
        errors: error format of the endpoint.
        streams: whether every response is a stream; else only server-sent events are.
    """

    def __init__(
        self, relay: Relay, request: RelayedRequest, errors: StreamErrors, streams: bool = False
    ) -> None:
        super().__init__()
        self.relay, self.request, self.errors, self.streams = relay, request, errors, streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response (ASGI)."""
        try:
            await run_until_disconnect(receive, partial(self._relay, scope, receive, send))
        except ClientDisconnect:
            self.relay.outcomes.labels("cancelled").inc()

    async def _relay(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with self.relay.send(self.request) as (worker, response):
                streams = self.streams or response.content_type == "text/event-stream"
                if response.status == 200 and streams:
                    await self._send_stream(worker, response, send)
                else:
                    await self._send_whole(worker, response, scope, receive, send)
        except MGMError as error:
            text = WORKER_LOST_MESSAGE if isinstance(error, WorkerLostError) else str(error)
            if not isinstance(error, BadRequestError):
                self.relay.outcomes.labels("gone").inc()
            await self.errors.response(text, error)(scope, receive, send)

    async def _send_stream(self, worker: WorkerInfo, response: BoundedResponse, send: Send) -> None:
        headers = (
            {} if self.streams else {name.lower(): value for name, value in SSE_HEADERS.items()}
        )
        headers |= _response_headers(response)
        await _send_start(send, response.status, headers)
        tail = b""
        try:
            while chunk := await self.relay.read(worker, response):
                await _send_chunk(send, chunk)
                tail = (tail + chunk)[-TAIL_BYTES:]
            if not (_is_framed(response) or self.errors.is_end(tail)):
                raise WorkerLostError("its stream ended early")
        except WorkerLostError as error:
            self.relay.outcomes.labels("gone").inc()
            await _send_chunk(send, self.errors.last_chunk(WORKER_LOST_MESSAGE, tail))
            self.relay.record_lost(worker, error)
        else:
            self.relay.record_response(worker, response.status)
        await _send_chunk(send, b"", more=False)

    async def _send_whole(
        self,
        worker: WorkerInfo,
        response: BoundedResponse,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Send a response when it is complete, so that a lost worker causes an HTTP error."""
        headers = _response_headers(response)
        content = bytearray()
        while chunk := await self.relay.read(worker, response):
            content += chunk
            if len(content) > SPOOL_BYTES:
                break
        else:
            _check_complete(response, bytes(content))
            self.relay.record_response(worker, response.status)
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
            self.relay.record_lost(worker, error)
            return  # without the last chunk, so that the server closes the connection
        self.relay.record_response(worker, response.status)
        await _send_chunk(send, b"", more=False)


def _response_headers(response: BoundedResponse) -> dict[str, str]:
    """Headers of a worker's response that the client gets."""
    headers = safe_headers(response.headers, RETURNED_HEADERS)
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and kind not in CONTENT_TYPES:
        headers["content-type"] = "application/octet-stream"
    return headers | {"x-content-type-options": "nosniff"}


def _is_framed(response: BoundedResponse) -> bool:
    """Whether HTTP marks the end of a response; else the closed connection does."""
    codings = response.headers.get("Transfer-Encoding", "").lower()
    return "chunked" in codings or "Content-Length" in response.headers


def _check_complete(response: BoundedResponse, content: bytes) -> None:
    """Raise an error for truncated JSON, where HTTP does not mark the end."""
    if response.content_type == "application/json" and not _is_framed(response):
        try:
            json.loads(content)
        except (ValueError, RecursionError) as error:
            raise WorkerLostError("its response is truncated JSON") from error


async def _send_start(send: Send, status: int, headers: dict[str, str]) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def _send_chunk(send: Send, chunk: bytes, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": chunk, "more_body": more})

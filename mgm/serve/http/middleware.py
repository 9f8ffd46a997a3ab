"""Middleware of every server: API keys, size limits, errors in OpenAI's shape, access log."""

import hmac
import json
import logging
import re
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Lifespan, Message, Receive, Scope, Send

from mgm.engine.core.errors import (
    ContextLengthError,
    EngineBusyError,
    GenerationError,
    RequestError,
)
from mgm.errors import MGMError
from mgm.serve.http.concurrency_limit import QueueFullError
from mgm.serve.limits.body_memory import Body, BodyMemory, BodyMemoryFullError
from mgm.serve.limits.request_parser import MAX_HEAD_BYTES
from mgm.serve.openai.errors import BadRequestError
from mgm.serve.openai.responses import error_body

logger = logging.getLogger("mgm.serve")

MAX_BODY = 64 * 2**20  # bytes, about ten photographs in base64
MAX_BODIES = 8 * MAX_BODY  # bytes of all requests in progress
MAX_HEADER_FIELDS = 100  # as nginx and Apache allow
UNAUTHENTICATED_PATHS = ("/health", "/metrics")
# Fields of engine requests: their names in bodies, and OpenAI's code of the error.
BODY_FIELDS = {
    "structured_output": ("structured_outputs", None),
    "images": ("url", "invalid_image_url"),
}
_ABSOLUTE = re.compile(r"https?://[^/]*(.*)", re.IGNORECASE | re.DOTALL)
_BEARER = re.compile(rb"bearer +([\x21-\x7e]+)", re.IGNORECASE)


class BodyTooLargeError(Exception):
    """A request body exceeds the maximum size (HTTP 413)."""


def build_app(
    title: str,
    api_keys: Sequence[str] = (),
    max_body: int = MAX_BODY,
    origins: Sequence[str] = (),
    lifespan: Lifespan[FastAPI] | None = None,
    keyless_paths: Sequence[str] = (),
) -> FastAPI:
    """A FastAPI application with middleware and error handlers, without endpoints.

    Args:
        title: title of the application.
        api_keys: every request needs one as a bearer token; none: no authentication.
        max_body: bytes of a request body.
        origins: allowed by CORS; none: no CORS.
        lifespan: FastAPI's `lifespan`: context manager around the running server.
        keyless_paths: need no API key, since their endpoints authenticate the sender.
    """
    app = FastAPI(
        title=title,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        exception_handlers=dict(EXCEPTION_HANDLERS),
    )
    app.add_middleware(
        RequestGuard,
        api_keys=tuple(api_keys),
        max_body=max_body,
        keyless_paths=(*UNAUTHENTICATED_PATHS, *keyless_paths),
    )
    if origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(origins), allow_methods=["*"], allow_headers=["*"]
        )
    return app


async def _queue_full(_: Request, error: Exception) -> JSONResponse:
    body = error_body(str(error), "rate_limit_error", code="rate_limit_exceeded")
    return JSONResponse(body, 429, headers={"Retry-After": "1"})


async def _bad_request(_: Request, error: BadRequestError) -> JSONResponse:
    return JSONResponse(error_body(str(error), field=error.field, code=error.code), error.status)


async def _context_length_exceeded(request: Request, error: Exception) -> JSONResponse:
    field = "prompt" if request.scope["path"] == "/v1/completions" else "messages"
    body = error_body(str(error), field=field, code="context_length_exceeded")
    return JSONResponse(body, 400)


async def _engine_refusal(_: Request, error: RequestError) -> JSONResponse:
    """HTTP 400 for a request field that the engine refuses, under its name in bodies."""
    field, code = BODY_FIELDS.get(error.field, (error.field, None))
    return JSONResponse(error_body(str(error), field=field, code=code), 400)


async def _user_error(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse(error_body(str(error)), 400)


async def _generation_failed(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse(error_body(str(error), "server_error"), 500)


async def _body_too_large(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse(error_body(str(error), code="request_too_large"), 413)


async def _busy(_: Request, error: Exception) -> JSONResponse:
    body = error_body(str(error), "server_error", code="server_busy")
    return JSONResponse(body, 503, headers={"Retry-After": "1"})


async def _http_error(_: Request, error: HTTPException) -> JSONResponse:
    return JSONResponse(error_body(str(error.detail)), error.status_code)


async def _malformed_request(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse(error_body("the request is malformed"), 400)


async def _client_disconnected(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse(error_body("the client disconnected"), 499)


async def _internal_error(_: Request, error: Exception) -> JSONResponse:
    logger.exception("internal server error", exc_info=error)
    return JSONResponse(error_body("the server failed; see its log", "server_error"), 500)


# Errors of requests as responses in OpenAI's shape; the most specific class applies.
EXCEPTION_HANDLERS: Mapping[
    type[Exception], Callable[[Request, Any], Coroutine[Any, Any, JSONResponse]]
] = {
    QueueFullError: _queue_full,
    BadRequestError: _bad_request,
    ContextLengthError: _context_length_exceeded,
    RequestError: _engine_refusal,
    MGMError: _user_error,
    GenerationError: _generation_failed,
    BodyTooLargeError: _body_too_large,
    BodyMemoryFullError: _busy,
    EngineBusyError: _busy,
    HTTPException: _http_error,
    RequestValidationError: _malformed_request,
    ClientDisconnect: _client_disconnected,
    Exception: _internal_error,
}


class RequestGuard:
    """ASGI middleware: checks header size, body size and API key; logs each request as JSON."""

    def __init__(
        self,
        app: ASGIApp,
        api_keys: tuple[str, ...],
        max_body: int,
        keyless_paths: tuple[str, ...] = UNAUTHENTICATED_PATHS,
    ) -> None:
        self.app, self.max_body, self.keyless_paths = app, max_body, keyless_paths
        self.keys = [key.encode() for key in api_keys]
        self.memory = BodyMemory(MAX_BODIES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start_time, status = time.perf_counter(), 0

        async def send_recording_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        scope = _as_origin_form(scope)
        with self.memory.body() as body:
            try:
                await self._respond(scope, body, receive, send_recording_status)
            finally:
                if scope["path"] not in UNAUTHENTICATED_PATHS:
                    fields = {
                        "method": scope["method"],
                        "path": scope["path"],
                        "status": status,
                        "bytes": body.size,
                        "seconds": round(time.perf_counter() - start_time, 4),
                        "client": (scope.get("client") or ("",))[0],
                    }
                    logger.info("%s", json.dumps(fields))

    async def _respond(self, scope: Scope, body: Body, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it to the application."""

        async def receive_limited() -> Message:
            message = await body.receive(receive)
            if body.size > self.max_body:
                raise BodyTooLargeError(f"the body is larger than {self.max_body} bytes")
            return message

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        # uvicorn drops the body of responses to HEAD.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        await self.app({**scope, "method": method}, receive_limited, send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        """Check a request; returns the error response, or None if it passes."""
        headers = scope["headers"]
        size = sum(len(name) + len(value) for name, value in headers)
        if len(headers) > MAX_HEADER_FIELDS or size > MAX_HEAD_BYTES:
            text = (
                f"the request has {len(headers)} header fields of {size} bytes; the maximum is "
                f"{MAX_HEADER_FIELDS} fields of {MAX_HEAD_BYTES} bytes"
            )
            return JSONResponse(error_body(text, code="request_header_too_large"), 431)
        if scope["path"] not in self.keyless_paths and not self._has_key(headers):
            body = error_body(
                "the API key is missing or wrong; send it as Authorization: Bearer KEY",
                code="invalid_api_key",
            )
            return JSONResponse(body, 401, headers={"WWW-Authenticate": "Bearer"})
        if "\n" in scope["path"]:  # the `$` of route patterns matches before it, too
            return JSONResponse(error_body("Not Found"), 404)
        lengths = [value for name, value in headers if name == b"content-length"]
        if any(value.isdigit() and int(value) > self.max_body for value in lengths):
            text = f"the body has {int(lengths[0])} bytes; the maximum is {self.max_body}"
            return JSONResponse(error_body(text, code="request_too_large"), 413)
        return None

    def _has_key(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        key = bearer_token(headers)
        if not self.keys or key is None:
            return not self.keys
        return any(hmac.compare_digest(key, own) for own in self.keys)


def _as_origin_form(scope: Scope) -> Scope:
    """Replace an absolute URL as the request target by its path (RFC 9112, 3.2.2)."""
    match = _ABSOLUTE.fullmatch(scope["path"])
    return scope if match is None else {**scope, "path": match[1] or "/"}


def bearer_token(headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
    """Bearer token of a request's Authorization header, if there is exactly one such header.

    The scheme is case-insensitive and one space or more follow it (RFC 9110, section 11.4; RFC
    6750, section 2.1).

    Args:
        headers: headers of ASGI, names in lower case.
    """
    values = [value for name, value in headers if name == b"authorization"]
    match = _BEARER.fullmatch(values[0].strip(b" \t")) if len(values) == 1 else None
    return None if match is None else match[1]

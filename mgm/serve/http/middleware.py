"""What every server has: API keys, size limits, errors in OpenAI's shape, a request log."""

import hmac
import json
import logging
import re
import time
from collections.abc import Sequence

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

MAX_BODY = 64 * 2**20  # bytes; some ten photographs in base64
MAX_BODIES = 8 * MAX_BODY  # bytes of all requests that are not answered yet
MAX_HEADER_FIELDS = 100  # as nginx and Apache allow
OPEN_PATHS = ("/health", "/metrics")  # need no key
# Of fields of the engine's requests: what bodies call them, and OpenAI's code of the error.
BODY_FIELDS = {
    "structured_output": ("structured_outputs", None),
    "images": ("url", "invalid_image_url"),
}
_ABSOLUTE = re.compile(r"https?://[^/]*(.*)", re.IGNORECASE | re.DOTALL)
_BEARER = re.compile(rb"bearer +([\x21-\x7e]+)", re.IGNORECASE)


class BodyTooLargeError(Exception):
    """A body is larger than what is read."""


def build_app(
    title: str,
    api_keys: Sequence[str] = (),
    max_body: int = MAX_BODY,
    origins: Sequence[str] = (),
    lifespan: Lifespan[FastAPI] | None = None,
    keyless_paths: Sequence[str] = (),
) -> FastAPI:
    """An application without endpoints.

    Args:
        title: of it.
        api_keys: one of which has to come with every request, as a bearer token; none: all may ask.
        max_body: bytes of a request.
        origins: of web pages that may ask; none: pages of others may not.
        lifespan: what runs from the start of the server to its end; see FastAPI.
        keyless_paths: for which no API key is needed, since their endpoints check who sends.
    """
    app = FastAPI(title=title, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(
        RequestGuard,
        api_keys=tuple(api_keys),
        max_body=max_body,
        keyless_paths=(*OPEN_PATHS, *keyless_paths),
    )
    if origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(origins), allow_methods=["*"], allow_headers=["*"]
        )

    @app.exception_handler(QueueFullError)
    async def full(_: Request, error: QueueFullError) -> JSONResponse:
        body = error_body(str(error), "rate_limit_error", code="rate_limit_exceeded")
        return JSONResponse(body, 429, headers={"Retry-After": "1"})

    @app.exception_handler(BadRequestError)
    async def bad(_: Request, error: BadRequestError) -> JSONResponse:
        return JSONResponse(
            error_body(str(error), field=error.field, code=error.code), error.status
        )

    @app.exception_handler(ContextLengthError)
    async def too_long(request: Request, error: ContextLengthError) -> JSONResponse:
        field = "prompt" if request.scope["path"] == "/v1/completions" else "messages"
        body = error_body(str(error), field=field, code="context_length_exceeded")
        return JSONResponse(body, 400)

    @app.exception_handler(RequestError)
    async def wrong_field(_: Request, error: RequestError) -> JSONResponse:
        field, code = BODY_FIELDS.get(error.field, (error.field, None))
        return JSONResponse(error_body(str(error), field=field, code=code), 400)

    @app.exception_handler(MGMError)
    async def wrong(_: Request, error: MGMError) -> JSONResponse:
        return JSONResponse(error_body(str(error)), 400)

    @app.exception_handler(GenerationError)
    async def failed(_: Request, error: GenerationError) -> JSONResponse:
        return JSONResponse(error_body(str(error), "server_error"), 500)

    @app.exception_handler(BodyTooLargeError)
    async def large(_: Request, error: BodyTooLargeError) -> JSONResponse:
        return JSONResponse(error_body(str(error), code="request_too_large"), 413)

    @app.exception_handler(BodyMemoryFullError)
    @app.exception_handler(EngineBusyError)
    async def busy(_: Request, error: Exception) -> JSONResponse:
        body = error_body(str(error), "server_error", code="server_busy")
        return JSONResponse(body, 503, headers={"Retry-After": "1"})

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(error_body(str(error.detail)), error.status_code)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse(error_body("the request is malformed"), 400)

    @app.exception_handler(ClientDisconnect)
    async def left(_: Request, error: ClientDisconnect) -> JSONResponse:
        return JSONResponse(error_body("the client left before its request was complete"), 499)

    @app.exception_handler(Exception)
    async def defect(_: Request, error: Exception) -> JSONResponse:
        logger.exception("a defect", exc_info=error)
        return JSONResponse(error_body("the server failed; see its log", "server_error"), 500)

    return app


class RequestGuard:
    """Checks header size, body size and API key of each request, and logs it as a line of JSON."""

    def __init__(
        self,
        app: ASGIApp,
        api_keys: tuple[str, ...],
        max_body: int,
        keyless_paths: tuple[str, ...] = OPEN_PATHS,
    ) -> None:
        self.app, self.max_body, self.keyless_paths = app, max_body, keyless_paths
        self.keys = [key.encode() for key in api_keys]
        self.memory = BodyMemory(MAX_BODIES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start_time, status = time.perf_counter(), 0

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        scope = _as_origin_form(scope)
        with self.memory.body() as body:
            try:
                await self._respond(scope, body, receive, send_noting_status)
            finally:
                if scope["path"] not in OPEN_PATHS:
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
        """Refuse a request, or let the application answer it."""

        async def receive_limited() -> Message:
            message = await body.receive(receive)
            if body.size > self.max_body:
                raise BodyTooLargeError(f"the body is larger than {self.max_body} bytes")
            return message

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        # The server itself sends no body in answer to HEAD.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        await self.app({**scope, "method": method}, receive_limited, send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        """The response to a request that is not let in."""
        headers = scope["headers"]
        size = sum(len(name) + len(value) for name, value in headers)
        if len(headers) > MAX_HEADER_FIELDS or size > MAX_HEAD_BYTES:
            text = (
                f"the request has {len(headers)} header fields of {size} bytes; at most "
                f"{MAX_HEADER_FIELDS} of {MAX_HEAD_BYTES} are read"
            )
            return JSONResponse(error_body(text, code="request_header_too_large"), 431)
        if scope["path"] not in self.keyless_paths and not self._has_key(headers):
            body = error_body(
                "the API key is missing or wrong; send it as Authorization: Bearer KEY",
                code="invalid_api_key",
            )
            return JSONResponse(body, 401, headers={"WWW-Authenticate": "Bearer"})
        if "\n" in scope["path"]:  # before which `$` of the routes' patterns matches, too
            return JSONResponse(error_body("Not Found"), 404)
        lengths = [value for name, value in headers if name == b"content-length"]
        if any(value.isdigit() and int(value) > self.max_body for value in lengths):
            text = f"the body has {int(lengths[0])} bytes; at most {self.max_body} are read"
            return JSONResponse(error_body(text, code="request_too_large"), 413)
        return None

    def _has_key(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        key = bearer_token(headers)
        if not self.keys or key is None:
            return not self.keys
        return any(hmac.compare_digest(key, own) for own in self.keys)


def _as_origin_form(scope: Scope) -> Scope:
    """A request whose target is a whole URL, which servers have to accept (RFC 9112, 3.2.2)."""
    found = _ABSOLUTE.fullmatch(scope["path"])
    return scope if found is None else {**scope, "path": found[1] or "/"}


def bearer_token(headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
    """The token of a request's only Authorization header, if its scheme is Bearer.

    The scheme is case-insensitive and one space or more follow it (RFC 9110, section 11.4; RFC
    6750, section 2.1).

    Args:
        headers: names in lower case, and values, as ASGI has them.
    """
    values = [value for name, value in headers if name == b"authorization"]
    found = _BEARER.fullmatch(values[0].strip(b" \t")) if len(values) == 1 else None
    return None if found is None else found[1]

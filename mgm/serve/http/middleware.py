"""What every server of ours has: limits of bodies, keys, errors without traces, and logs."""

import hmac
import json
import logging
import re
import time
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Lifespan, Message, Receive, Scope, Send

from mgm.errors import MGMError
from mgm.serve.http.concurrency_limit import FullError
from mgm.serve.http.openai_requests import BadRequestError
from mgm.serve.http.openai_responses import error_body

logger = logging.getLogger("mgm.serve")

MAX_BODY = 64 * 2**20  # bytes; some ten photographs in base64
OPEN_PATHS = ("/health", "/metrics")  # need no key
_BEARER = re.compile(rb"bearer +([\x21-\x7e]+)", re.IGNORECASE)


class TooLargeError(Exception):
    """A body is larger than what is read."""


def application(
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
    app = FastAPI(title=title, docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_middleware(
        _Guard,
        api_keys=tuple(api_keys),
        max_body=max_body,
        keyless_paths=(*OPEN_PATHS, *keyless_paths),
    )
    if origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(origins), allow_methods=["*"], allow_headers=["*"]
        )

    @app.exception_handler(FullError)
    async def full(_: Request, error: FullError) -> JSONResponse:
        body = error_body(str(error), "rate_limit_error", code="rate_limit_exceeded")
        return JSONResponse(body, 429, headers={"Retry-After": "1"})

    @app.exception_handler(BadRequestError)
    async def bad(_: Request, error: BadRequestError) -> JSONResponse:
        return JSONResponse(
            error_body(str(error), field=error.field, code=error.code), error.status
        )

    @app.exception_handler(MGMError)
    async def wrong(_: Request, error: MGMError) -> JSONResponse:
        return JSONResponse(error_body(str(error)), 400)

    @app.exception_handler(TooLargeError)
    async def large(_: Request, error: TooLargeError) -> JSONResponse:
        return JSONResponse(error_body(str(error), code="request_too_large"), 413)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(error_body(str(error.detail)), error.status_code)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse(error_body("the request is malformed"), 400)

    @app.exception_handler(Exception)
    async def defect(_: Request, error: Exception) -> JSONResponse:
        logger.exception("a defect", exc_info=error)
        return JSONResponse(error_body("the server failed; see its log", "server_error"), 500)

    return app


async def json_body(request: Request) -> Any:
    """The JSON of a request.

    Raises:
        BadRequestError: it is none.
    """
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise BadRequestError("the body is no valid JSON") from error


class _Guard:
    """Asks for keys, stops bodies that are too large, and logs each request in a line of JSON."""

    def __init__(
        self,
        app: ASGIApp,
        api_keys: tuple[str, ...],
        max_body: int,
        keyless_paths: tuple[str, ...] = OPEN_PATHS,
    ) -> None:
        self.app, self.max_body, self.keyless_paths = app, max_body, keyless_paths
        self.keys = [key.encode() for key in api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        begun, status = time.perf_counter(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_body:
                raise TooLargeError(f"the body is larger than {self.max_body} bytes")
            return message

        refusal = None
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.max_body:
            text = f"the body has {int(length)} bytes; at most {self.max_body} are read"
            refusal = JSONResponse(error_body(text, code="request_too_large"), 413)
        elif scope["path"] not in self.keyless_paths and not self._may_ask(headers):
            body = error_body("the API key is missing or wrong", code="invalid_api_key")
            refusal = JSONResponse(body, 401, headers={"WWW-Authenticate": "Bearer"})
        try:
            await (refusal or self.app)(scope, receive if refusal else limited, watched)
        finally:
            if scope["path"] not in OPEN_PATHS:
                fields = {
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "bytes": received,
                    "seconds": round(time.perf_counter() - begun, 4),
                    "client": (scope.get("client") or ("",))[0],
                }
                logger.info("%s", json.dumps(fields))

    def _may_ask(self, headers: dict[bytes, bytes]) -> bool:
        if not self.keys:
            return True
        given = headers.get(b"authorization", b"").removeprefix(b"Bearer ")
        return any(hmac.compare_digest(given, key) for key in self.keys)


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

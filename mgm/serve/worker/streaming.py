"""Streaming responses (SSE): chunks sent as they are generated, until the client disconnects."""

import logging
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mgm.engine.core.errors import GenerationError
from mgm.errors import MGMError
from mgm.serve.http.disconnect import run_until_disconnect

logger = logging.getLogger("mgm.serve")

SERVER_ERROR = "the server failed; see its log"
Write = Callable[[bytes], Awaitable[None]]


class EventStream(Response):
    """A response whose chunks a coroutine writes; it is cancelled when the client disconnects.

    Status and headers are sent with the first chunk: an error before it has an HTTP status, a later
    one is the last chunk of the stream.

    Args:
        produce: coroutine function that gets an async function to write a chunk.
        error_chunk: the chunk of an error, whose message the client may see.
        media_type: content type of the response.
        headers: headers of the response.
        open_at_once: send status and headers first, so that every error is a chunk.
    """

    def __init__(
        self,
        produce: Callable[[Write], Awaitable[None]],
        error_chunk: Callable[[MGMError], bytes],
        media_type: str,
        headers: Mapping[str, str] | None = None,
        open_at_once: bool = False,
    ) -> None:
        self._produce, self._error_chunk = produce, error_chunk
        self._open_at_once = open_at_once
        self.status_code = 200
        self.media_type = media_type
        self.background = None
        self.init_headers(headers)  # no body yet, hence no Content-Length

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response (ASGI)."""
        opened = False

        async def write(chunk: bytes, more: bool = True) -> None:
            nonlocal opened
            if not opened:
                opened = True
                await send(
                    {
                        "type": "http.response.start",
                        "status": self.status_code,
                        "headers": self.raw_headers,
                    }
                )
            await send({"type": "http.response.body", "body": chunk, "more_body": more})

        async def run() -> None:
            try:
                if self._open_at_once:
                    await write(b"")
                await self._produce(write)
            except MGMError as error:
                if not opened:
                    raise
                await write(self._error_chunk(error))
            except Exception as error:
                if not opened:
                    raise
                logger.exception("streaming failed", exc_info=error)
                await write(self._error_chunk(GenerationError(SERVER_ERROR)))
            await write(b"", more=False)

        try:
            await run_until_disconnect(receive, run)
        except ClientDisconnect:
            if not opened:
                raise

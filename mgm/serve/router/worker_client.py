"""HTTP client of a controller for its workers: one connection per request, no redirects."""

import asyncio
import socket
from typing import Any, cast

import aiohttp

from mgm.errors import MGMError
from mgm.serve.limits.bounded_response import BoundedResponse
from mgm.serve.openai.errors import parse_body
from mgm.serve.router.worker_registry import WorkerStatus

CONNECT_TIMEOUT = 5.0  # seconds to reach a worker
STATUS_TIMEOUT = 5.0  # seconds for its status
MAX_STATUS_BYTES = 2**20
# Bounds the parsing in one iteration of the event loop: a response in chunks of one byte takes a
# hundred times as long as one in large chunks.
RECEIVE_BUFFER = 32 * 2**10
KEEPALIVE_PROBES = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


class WorkerUnreachableError(MGMError):
    """A worker cannot be reached; it has not seen the request, which another one may serve."""


class WorkerLostError(MGMError):
    """A worker disconnected, or its response is not HTTP, after it got the request."""


class WorkerResponseError(MGMError):
    """A response has a status that workers do not send; clients see the message."""


class WorkerClient:
    """Sends requests to workers.

    Every request has its own connection: a handshake takes far less time than a response, and a
    connection that is never reused cannot be closed by an idle timeout just as a request arrives.
    An error after the handshake therefore means that the worker had the request, which is not sent
    again: what crashes one worker would crash the next.

    Redirects are not followed, cookies not kept, proxies of the environment not used.

    Args:
        worker_key: authenticates the controller to workers, all of which registered with it.
    """

    def __init__(self, worker_key: str | None = None) -> None:
        self._headers = {"Accept-Encoding": "identity"}
        if worker_key is not None:
            self._headers["Authorization"] = f"Bearer {worker_key}"
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def post(
        self, address: str, path: str, body: bytes, headers: dict[str, str]
    ) -> BoundedResponse:
        """Send a request; returns the response, whose body is not read yet.

        Raises:
            WorkerUnreachableError: no connection could be made.
            WorkerLostError: the worker disconnected before it responded.
        """
        try:
            response = await self._open_session().post(
                f"{address}{path}",
                data=body,
                headers=headers,
                skip_auto_headers=("Content-Type", "User-Agent"),
                allow_redirects=False,
            )
            return cast(BoundedResponse, response)
        except (
            aiohttp.ClientConnectorError,
            aiohttp.ConnectionTimeoutError,
            aiohttp.InvalidURL,
        ) as error:
            text = f"the worker {address} cannot be reached: {_escaped(error)}"
            raise WorkerUnreachableError(text) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            text = f"the worker {address} disconnected: {_escaped(error)}"
            raise WorkerLostError(text) from error

    async def read(self, response: BoundedResponse) -> bytes:
        """Read the next bytes of a response; empty: it is complete.

        Raises:
            WorkerLostError: the worker disconnected before the end.
        """
        try:
            return await response.read_chunk()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise WorkerLostError(f"the worker disconnected: {_escaped(error)}") from error

    async def status(self, address: str) -> WorkerStatus:
        """Request a worker's status.

        Raises:
            MGMError: the status does not arrive in time, or is malformed or too long.
        """
        try:
            async with asyncio.timeout(STATUS_TIMEOUT):
                response = await self.post(address, "/worker_get_status", b"", {})
                try:
                    content = await self._read_all(response, MAX_STATUS_BYTES)
                finally:
                    response.close()
        except TimeoutError as error:
            raise MGMError(f"the worker {address} does not respond") from error
        if response.status != 200:
            raise MGMError(
                f"the worker {address} responds to a status request with {response.status}"
            )
        try:
            return parse_body(WorkerStatus, content)
        except MGMError as error:
            raise MGMError(f"the status of the worker {address} is malformed: {error}") from error

    async def _read_all(self, response: BoundedResponse, limit: int) -> bytes:
        content = bytearray()
        while chunk := await self.read(response):
            content += chunk
            if len(content) > limit:
                raise MGMError(f"the worker's response has more than {limit} bytes")
        return bytes(content)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:  # created here, since it belongs to the running event loop
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0, force_close=True, socket_factory=_keepalive_socket
                ),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                response_class=BoundedResponse,
            )
        return self._session


def _keepalive_socket(address: tuple[Any, ...]) -> socket.socket:
    """A socket with TCP keep-alive, which detects an unreachable machine.

    A read timeout cannot: a response may take minutes without a byte.
    """
    family, kind, protocol, _, _ = address
    opened = socket.socket(family=family, type=kind, proto=protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    for name, value in KEEPALIVE_PROBES.items():
        if hasattr(socket, name):  # depends on the operating system
            opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return opened


def _escaped(error: Exception) -> str:
    """The message of an error, which may quote a worker, as one line of ASCII."""
    return ascii(str(error) or type(error).__name__)[1:-1][:200]

"""HTTP from a controller to its workers."""

import asyncio
import socket
from typing import Any

import aiohttp

from mgm.errors import MGMError
from mgm.serve.limits.bounded_response import BoundedResponse
from mgm.serve.openai.errors import parse_body
from mgm.serve.router.worker_registry import WorkerStatus

CONNECT_TIMEOUT = 5.0  # seconds to reach a worker
STATUS_TIMEOUT = 5.0  # seconds for its status
MAX_STATUS = 2**20  # bytes
# Bytes that one turn of the event loop may have to parse, about; where they come in chunks of one
# byte they take a hundred times as long as in large ones.
RECEIVE_BUFFER = 32 * 2**10
KEEPALIVE_PROBES = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


class WorkerUnreachableError(MGMError):
    """No connection to a worker could be made: it has not seen the request."""


class WorkerLostError(MGMError):
    """A worker broke off, or answered with what is no HTTP, after it got a request."""


class WorkerResponseError(MGMError):
    """A worker answered with a status that no worker has; clients are shown the text."""


class WorkerClient:
    """Sends requests to workers.

    Every request has a connection of its own. An answer takes many times as long as a handshake,
    and a connection that is never reused is never closed by the worker's idle time-out just as a
    request arrives. Whatever breaks after the handshake therefore broke while the worker had the
    request, which must not be sent again: what crashes one worker would crash the next.

    No redirect is followed, no cookie kept and no proxy of the environment used.

    Args:
        worker_key: proves to workers that the requests come from their controller; sent to those
            alone that registered with it.
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
    ) -> aiohttp.ClientResponse:
        """A worker's response, whose body is still to be read, as it was sent.

        Raises:
            WorkerUnreachableError: no connection could be made.
            WorkerLostError: the connection broke before there was a response.
        """
        try:
            return await self._open_session().post(
                f"{address}{path}",
                data=body,
                headers=headers,
                skip_auto_headers=("Content-Type", "User-Agent"),
                allow_redirects=False,
            )
        except (
            aiohttp.ClientConnectorError,
            aiohttp.ConnectionTimeoutError,
            aiohttp.InvalidURL,
        ) as error:
            text = f"the worker {address} cannot be reached: {_escaped(error)}"
            raise WorkerUnreachableError(text) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            text = f"the worker {address} broke off: {_escaped(error)}"
            raise WorkerLostError(text) from error

    async def read(self, response: aiohttp.ClientResponse) -> bytes:
        """The next bytes of a response; none: it is complete.

        Raises:
            WorkerLostError: the connection broke before the end.
        """
        try:
            return await response.content.readany()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise WorkerLostError(f"the worker broke off: {_escaped(error)}") from error

    async def status(self, address: str) -> WorkerStatus:
        """What a worker says of itself.

        Raises:
            MGMError: there is none in time, or it is malformed, or too long.
        """
        try:
            async with asyncio.timeout(STATUS_TIMEOUT):
                response = await self.post(address, "/worker_get_status", b"", {})
                try:
                    content = await self._read_all(response, MAX_STATUS)
                finally:
                    response.close()
        except TimeoutError as error:
            raise MGMError(f"the worker {address} does not answer") from error
        if response.status != 200:
            raise MGMError(f"the worker {address} answers its status with {response.status}")
        try:
            return parse_body(WorkerStatus, content)
        except MGMError as error:
            raise MGMError(f"the status of the worker {address} is malformed: {error}") from error

    async def _read_all(self, response: aiohttp.ClientResponse, limit: int) -> bytes:
        content = bytearray()
        while chunk := await self.read(response):
            content += chunk
            if len(content) > limit:
                raise MGMError(f"the worker's response has more than {limit} bytes")
        return bytes(content)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:  # it belongs to the running event loop
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
    """A socket that notices when the machine at its other end is gone.

    Answers may take minutes without a byte, so that no read time-out can tell.
    """
    family, kind, protocol, _, _ = address
    opened = socket.socket(family=family, type=kind, proto=protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    for name, value in KEEPALIVE_PROBES.items():
        if hasattr(socket, name):  # not all systems have all of them
            opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return opened


def _escaped(error: Exception) -> str:
    """An error's text, which may quote what a worker sent, on one line of ASCII."""
    return ascii(str(error) or type(error).__name__)[1:-1][:200]

"""Image downloads from public hosts (SSRF protection), with a deadline and size limits."""

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Any, cast

import aiohttp
import anyio
from yarl import URL

from mgm.errors import MGMError, one_line
from mgm.serve.http.concurrency_limit import QueueFullError
from mgm.serve.limits.bounded_response import BoundedResponse
from mgm.serve.openai.errors import BadRequestError
from mgm.serve.worker.public_addresses import is_public

DOWNLOAD_TIMEOUT = 10.0  # seconds for all images of a request, DNS look-ups included
IMAGE_CONNECT_TIMEOUT = 3.0  # seconds per IP address of a host
MAX_IMAGE_BYTES = 32 * 2**20
MAX_REQUEST_BYTES = 64 * 2**20  # all images of a request together
MAX_CONNECTIONS_PER_REQUEST = 4
MAX_DOWNLOADING_REQUESTS = 64
MAX_REDIRECTS = 5
MAX_LOOKUPS = 64  # DNS look-ups at the same time, each in a thread, since the resolver blocks
MAX_ADDRESSES = 4  # IP addresses of a host to try
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = {
    # Some servers refuse the default agents of libraries.
    "User-Agent": "Mozilla/5.0 (mgm)",
    # No compression: the bytes that are counted are those of the image.
    "Accept-Encoding": "identity",
}


class ImageDownloader:
    """Downloads the images of many requests at the same time.

    SSRF protection: connections go to public addresses only. A name is resolved once, and the
    connection uses the address that was checked, so DNS rebinding has no effect. Redirects are
    followed here, each checked like the first URL. Proxies of the environment are not used.

    Args:
        allow_private: whether private, loopback and link-local addresses are allowed.
        timeout: seconds for all images of a request.
        max_requests: maximum requests that download at the same time; more get a `QueueFullError`.
        resolve: DNS resolver with the interface of `socket.getaddrinfo`.

    Attributes:
        running: requests whose images are being downloaded.
    """

    def __init__(
        self,
        allow_private: bool = False,
        timeout: float = DOWNLOAD_TIMEOUT,
        max_requests: int = MAX_DOWNLOADING_REQUESTS,
        resolve: Callable[..., Sequence[Any]] = socket.getaddrinfo,
    ) -> None:
        self.allow_private = allow_private
        self.timeout = timeout
        self.max_requests = max_requests
        self.running = 0
        self._resolve = resolve
        self._lookups = ThreadPoolExecutor(MAX_LOOKUPS, "image-dns")

    async def download(self, urls: Mapping[str, str]) -> dict[str, bytes]:
        """Download all images of one request.

        Args:
            urls: URLs by label; error messages begin with the label.

        Returns:
            Contents of the image files, by label.

        Raises:
            BadRequestError: an image cannot be downloaded in time, or is too large.
            QueueFullError: too many requests download images.
        """
        if self.running >= self.max_requests:
            raise QueueFullError(
                f"{self.running} requests are downloading images; try again soon, or send the "
                "images as data URLs"
            )
        self.running += 1
        try:
            contents = await self._download_all(urls)
        finally:
            self.running -= 1
        for label, url in urls.items():
            if label not in contents:
                raise bad_image(
                    f"{_name(label, url)}: did not arrive within {self.timeout:g} s, the time "
                    "limit for all images of a request; send it as a data URL"
                )
        return contents

    async def _download_all(self, urls: Mapping[str, str]) -> dict[str, bytes]:
        """Contents by label, of the images that arrive in time; raises the first error."""
        contents: dict[str, bytes] = {}
        errors: list[MGMError] = []
        connections = anyio.Semaphore(MAX_CONNECTIONS_PER_REQUEST)

        async def fetch(label: str) -> None:
            async with connections:
                try:
                    contents[label] = await images.download(urls[label], _name(label, urls[label]))
                except MGMError as error:
                    errors.append(error)
                    group.cancel_scope.cancel()  # the others are not needed any more

        async with _session() as session:
            images = _RequestDownload(session, self.addresses)
            with anyio.move_on_after(self.timeout):
                async with anyio.create_task_group() as group:
                    for label in urls:
                        group.start_soon(fetch, label)
        if errors:
            raise errors[0]
        return contents

    async def addresses(self, url: URL, name: str) -> list[str]:
        """Resolve the host of a URL, and check that all its IP addresses are public.

        Args:
            url: URL with a host.
            name: name of the image, for error messages.

        Raises:
            BadRequestError: the host has no address, or one that is not public.
        """
        host = url.raw_host or ""
        look_up = self._lookups.submit(
            self._resolve, host, url.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )
        try:
            entries = await asyncio.wrap_future(look_up)
        except (OSError, UnicodeError) as error:
            raise _unreachable(name, error) from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
        if not self.allow_private and not all(is_public(ip_address(one)) for one in addresses):
            raise bad_image(f"{name}: {host:.100} is not a public address; give a public URL")
        return addresses[:MAX_ADDRESSES]


class _RequestDownload:
    """Image downloads of one request.

    Args:
        session: HTTP session of the downloads.
        addresses: see `ImageDownloader.addresses`.
    """

    def __init__(self, session: aiohttp.ClientSession, addresses: Callable[..., Any]) -> None:
        self._session, self._addresses = session, addresses
        self._bytes_read = 0

    async def download(self, text: str, name: str) -> bytes:
        """Download one image, following redirects.

        Raises:
            BadRequestError: the URL is invalid, cannot be reached, or is too large.
        """
        try:
            url = _checked(URL(text), name)
            for _ in range(MAX_REDIRECTS + 1):
                response = await self._get(url, name)
                async with response:
                    target = response.headers.get("Location")
                    if response.status not in _REDIRECTS or target is None:
                        return await self._read(response, name)
                    url = _checked(url.join(URL(target)), name)
        except (aiohttp.ClientError, OSError, EOFError) as error:
            raise _unreachable(name, error) from error
        except MGMError:
            raise
        except ValueError as error:  # raised by yarl
            raise bad_image(f"{name}: is not a valid URL ({one_line(error)[:100]})") from error
        raise bad_image(f"{name}: redirects more than {MAX_REDIRECTS} times; give the final URL")

    async def _get(self, url: URL, name: str) -> BoundedResponse:
        """Send a request to an IP address of the host that was checked."""
        host = url.raw_host or ""
        shown = f"[{host}]" if ":" in host else host
        headers = {"Host": shown if url.is_default_port() else f"{shown}:{url.port}"}
        # TLS verifies the host name, although the URL has the IP address.
        tls_name = host.rstrip(".") if url.scheme == "https" else None
        failure: Exception = OSError("the host has no address")
        for address in await self._addresses(url, name):
            try:
                response = await self._session.get(
                    url.with_host(address),
                    headers=headers,
                    allow_redirects=False,
                    server_hostname=tls_name,
                )
                return cast(BoundedResponse, response)
            except (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError) as error:
                failure = error
        raise failure

    async def _read(self, response: BoundedResponse, name: str) -> bytes:
        if not 200 <= response.status < 300:
            reason = f"{response.status} {one_line(response.reason or '')[:100]}".strip()
            raise bad_image(f"{name}: the server responded with {reason}; check the URL")
        content = bytearray()
        expected = response.content_length or 0
        self._check_size(expected, self._bytes_read + expected, name)
        while part := await response.read_chunk():
            content += part
            self._bytes_read += len(part)
            self._check_size(len(content), self._bytes_read, name)
        return bytes(content)

    @staticmethod
    def _check_size(of_image: int, of_request: int, name: str) -> None:
        if of_image > MAX_IMAGE_BYTES:
            raise bad_image(
                f"{name}: is larger than {MAX_IMAGE_BYTES >> 20} MiB; give a smaller one"
            )
        if of_request > MAX_REQUEST_BYTES:
            limit = f"{MAX_REQUEST_BYTES >> 20} MiB"
            raise bad_image(f"{name}: the images of the request have more than {limit} together")


def bad_image(message: str) -> BadRequestError:
    """The error of an image that cannot be downloaded or decoded."""
    return BadRequestError(message, "url", code="invalid_image_url")


def _session() -> aiohttp.ClientSession:
    """Create an HTTP session for one request; connections are not reused."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=_HEADERS,
        auto_decompress=False,
        response_class=BoundedResponse,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=IMAGE_CONNECT_TIMEOUT),
    )


def _checked(url: URL, name: str) -> URL:
    if url.scheme not in ("http", "https") or not url.raw_host:
        raise bad_image(f"{name}: leads to a URL without http(s) and a host; give another")
    if url.raw_user is not None or url.raw_password is not None:
        raise bad_image(f"{name}: has a user or password before the host; leave them out")
    return url


def _name(label: str, url: str) -> str:
    return f"{label}: {url[:200].encode('utf-8', 'backslashreplace').decode()}"


def _unreachable(name: str, error: Exception) -> BadRequestError:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return bad_image(
        f"{name}: cannot be reached ({one_line(reason)[:200]}); check the URL and the network"
    )

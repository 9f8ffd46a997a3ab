"""Image downloads: public hosts only, within time and size limits."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from ipaddress import ip_address

import anyio
import pytest

from mgm.errors import MGMError
from mgm.serve.http.concurrency_limit import QueueFullError
from mgm.serve.worker import image_download
from mgm.serve.worker.image_download import ImageDownloader
from mgm.serve.worker.public_addresses import is_public

Page = Callable[[asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\n"


@contextlib.asynccontextmanager
async def site(pages: dict[str, bytes | Page]) -> AsyncGenerator[tuple[str, list[str]]]:
    """A server in this event loop; yields its address and the heads of its requests."""
    heads: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            heads.append(head)
            page = pages[head.split()[1]]
            if isinstance(page, bytes):
                writer.write(page)
            else:
                await page(writer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"{host}:{port}", heads
    finally:
        server.close()


async def drip(writer: asyncio.StreamWriter) -> None:
    writer.write(OK + b"\r\n")
    while not writer.is_closing():
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


async def endless(writer: asyncio.StreamWriter) -> None:
    writer.write(OK + b"\r\n")
    while not writer.is_closing():
        writer.write(bytes(2**16))
        await writer.drain()


async def interim(response: bytes, writer: asyncio.StreamWriter) -> None:
    while not writer.is_closing():
        writer.write(response * 1000)
        await writer.drain()


async def small_chunks(writer: asyncio.StreamWriter) -> None:
    writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"1\r\nx\r\n" * 1000)
        await writer.drain()


async def silence(writer: asyncio.StreamWriter) -> None:
    while not writer.is_closing():
        await asyncio.sleep(0.02)


def redirect(target: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()


def error_of(url: str, pages: dict[str, bytes | Page] | None = None, **settings) -> str:
    """The error message of downloading a URL."""
    settings = {"allow_private": True, "timeout": 5.0} | settings

    async def main() -> str:
        async with site(pages or {}) as (address, _):
            with pytest.raises(MGMError) as caught:
                await ImageDownloader(**settings).download({"image 1": url.format(address)})
            return str(caught.value)

    return asyncio.run(main())


def test_content_is_unchanged():
    async def main() -> None:
        pages: dict[str, bytes | Page] = {
            "/a": OK + b"Content-Length: 3\r\n\r\nabc",
            "/b%20c": OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\n",
            "/moved": redirect("b%20c"),
            "/empty": OK + b"Content-Length: 0\r\n\r\n",
            "/hints": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 8 + OK + b"Content-Length: 1\r\n\r\nf",
        }
        async with site(pages) as (address, heads):
            downloader = ImageDownloader(allow_private=True)
            names = ("a", "b c", "moved", "empty", "hints")
            urls = {name: f"http://{address}/{name}" for name in names}
            urls["upper"] = f"HTTP://{address}/a"
            assert await downloader.download(urls) == {
                "a": b"abc", "b c": b"de", "moved": b"de", "empty": b"", "upper": b"abc",
                "hints": b"f",
            }  # fmt: skip
            assert all(f"Host: {address}\r\n" in head for head in heads)
            assert downloader.running == 0

    asyncio.run(main())


def test_host_header():
    """The connection goes to the resolved addresses, in their order."""

    def resolve(host: str, port: int, **_: object) -> list:
        assert host == "pictures.example"
        # No server listens at the first address.
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in ("127.0.0.2", "127.0.0.1")
        ]

    async def main() -> None:
        async with site({"/a": OK + b"Content-Length: 1\r\n\r\na"}) as (address, heads):
            port = address.rpartition(":")[2]
            downloader = ImageDownloader(allow_private=True, resolve=resolve)
            url = f"http://pictures.example:{port}/a"
            assert await downloader.download({"x": url}) == {"x": b"a"}
            assert f"Host: pictures.example:{port}\r\n" in heads[0]

    asyncio.run(main())


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0", "localhost"),
        *("localhost.", "LOCALHOST", "%6cocalhost", "[::1]", "[::]", "[::ffff:127.0.0.1]"),
        *("[::127.0.0.1]", "[fe80::1%25lo]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]"),
        *("169.254.169.254", "10.0.0.1", "①②⑦.⓪.⓪.①", "127。0。0。1"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_private_hosts_in_every_spelling(host, scheme):
    message = error_of(f"{scheme}://{host}:9/a.png", allow_private=False)
    assert message.startswith(f"image 1: {scheme}://")
    # Some are not host names for the resolver, but none is connected to.
    assert (
        "not a public address" in message or "not known" in message or "not a valid URL" in message
    )


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://user:secret@{}/a", "user or password"),
        ("http://user@{}/a", "user or password"),
        ("http:///a", "without http(s) and a host"),
        ("http://{}:99999/a", "not a valid URL"),
        ("http://[::1/a", "not a valid URL"),
        ("http://a\ud800b/", "not a valid URL"),
        (f"http://{'a' * 300}.example/", "cannot be reached"),
        ("http://a..example/", "cannot be reached"),
        ("http://127.0.0.1:1/a", "cannot be reached"),
        ("http://{}/404", "image 1: http://127.0.0.1:"),
        ("http://{}/404", "the server responded with 404 Not Found"),
        ("http://{}/short", "cannot be reached"),
        ("http://{}/rubbish", "cannot be reached"),
        ("http://{}/bare", "the server responded with 302"),
        ("http://{}/loop", "redirects more than 5 times"),
        ("http://{}/file", "without http(s)"),
        ("http://{}/user", "user or password"),
        ("http://{}/bad", "not a valid URL"),
        ("http://{}/announced", "is larger than 32 MiB"),
        ("http://{}/endless", "is larger than 32 MiB"),
        ("http://{}/100", "more than 8 interim responses"),
        ("http://{}/103", "more than 8 interim responses"),
        ("http://{}/small-chunks", "comes in chunks of a few bytes"),
    ],
)  # fmt: skip
def test_errors_are_one_line(url, text):
    pages: dict[str, bytes | Page] = {
        "/404": b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        "/short": OK + b"Content-Length: 9\r\n\r\nabc",
        "/rubbish": b"\0\1\2\3\r\n\r\n",
        "/bare": b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n",
        "/loop": redirect("/loop"),
        "/file": redirect("file:///etc/passwd"),
        "/user": redirect("http://a:b@127.0.0.1/"),
        "/bad": redirect("http://[::1/"),
        "/announced": OK + b"Content-Length: 99999999999\r\n\r\n",
        "/endless": endless,
        "/100": partial(interim, b"HTTP/1.1 100 Continue\r\n\r\n"),
        "/103": partial(interim, b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"),
        "/small-chunks": small_chunks,
    }
    message = error_of(url, pages)
    assert text in message
    assert message.encode().count(b"\n") == 0


def test_chunked_responses():
    small = b"".join(b"10\r\n" + bytes(16) + b"\r\n" for _ in range(5000)) + b"0\r\n\r\n"
    large = b"fffff\r\n" + bytes(0xFFFFF) + b"\r\n1\r\nx\r\n0\r\n\r\n"
    head = OK + b"Transfer-Encoding: chunked\r\n\r\n"

    async def main() -> None:
        async with site({"/small": head + small, "/large": head + large}) as (address, _):
            urls = {name: f"http://{address}/{name}" for name in ("small", "large")}
            contents = await ImageDownloader(allow_private=True).download(urls)
            assert contents == {"small": bytes(80_000), "large": bytes(0xFFFFF) + b"x"}

    asyncio.run(main())


def test_total_size_limit_of_a_request(monkeypatch):
    monkeypatch.setattr(image_download, "MAX_REQUEST_BYTES", 10)

    async def main() -> None:
        async with site({"/a": OK + b"Connection: close\r\n\r\n123456"}) as (address, _):
            downloader = ImageDownloader(allow_private=True)
            url = f"http://{address}/a"
            assert len(await downloader.download({"image 1": url})) == 1
            with pytest.raises(MGMError, match=r"image . of 2: .* have more than 0 MiB together"):
                await downloader.download({f"image {n} of 2": url for n in (1, 2)})

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["drip", "silence", "tls", "name", "redirects", "one of three"])
def test_total_deadline(kind):
    async def turn(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        writer.write(redirect("/turn"))

    def resolve(host: str, port: int, **more: int) -> list:
        if host == "slow.example":
            time.sleep(2)
        return socket.getaddrinfo(host, port, **more)

    async def main() -> None:
        pages: dict[str, bytes | Page] = {
            "/drip": drip,
            "/silence": silence,
            "/turn": turn,
            "/a": OK + b"Content-Length: 1\r\n\r\na",
        }
        async with site(pages) as (address, _):
            urls = {
                "drip": {"x": f"http://{address}/drip"},
                "silence": {"x": f"http://{address}/silence"},
                "tls": {"x": f"https://{address}/"},
                "name": {"x": "http://slow.example/"},
                "redirects": {"x": f"http://{address}/turn"},
                "one of three": {
                    "a": f"http://{address}/a",
                    "x": f"http://{address}/drip",
                    "b": f"http://{address}/a",
                },
            }[kind]
            downloader = ImageDownloader(True, timeout=0.5, resolve=resolve)
            if kind == "tls":  # a server that does not answer the TLS handshake
                server = await asyncio.start_server(lambda _, writer: silence(writer), "127.0.0.1")
                port = server.sockets[0].getsockname()[1]
                urls = {"x": f"https://127.0.0.1:{port}/"}
            started = time.perf_counter()
            with pytest.raises(MGMError, match=r"x: http.* did not arrive within 0.5 s"):
                await downloader.download(urls)
            assert time.perf_counter() - started < 1.5
            assert downloader.running == 0

    asyncio.run(main())


def test_disconnect_cancels_the_download():
    async def main() -> None:
        closed = asyncio.Event()

        async def page(writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                await drip(writer)
            closed.set()

        async with site({"/drip": page}) as (address, heads):
            downloader = ImageDownloader(True)
            with anyio.move_on_after(0.2):
                await downloader.download({"x": f"http://{address}/drip"})
            assert downloader.running == 0
            assert heads
            await asyncio.wait_for(closed.wait(), 2)

    asyncio.run(main())


def test_concurrent_downloads_are_limited():
    async def main() -> None:
        async with site({"/drip": drip}) as (address, _):
            downloader = ImageDownloader(True, max_requests=1)
            urls = {"x": f"http://{address}/drip"}
            async with anyio.create_task_group() as group:
                group.start_soon(downloader.download, urls)
                await asyncio.sleep(0.05)
                with pytest.raises(QueueFullError, match="1 requests are downloading"):
                    await downloader.download(urls)
                group.cancel_scope.cancel()

    asyncio.run(main())


class Names:
    """A resolver that returns another address each time."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)

    def __call__(self, host: str, port: int, **_: object) -> list:
        address = self.addresses.pop(0) if len(self.addresses) > 1 else self.addresses[0]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (address, port))]


@pytest.mark.parametrize("later", ["127.0.0.2", "169.254.169.254", "64:ff9b::7f00:1"])
def test_checked_address_is_the_connected_one(monkeypatch, later):
    """For a name that is public at first and private later, and a redirect to that name."""
    monkeypatch.setattr(
        image_download, "is_public", lambda one: one == ip_address("127.0.0.1") or is_public(one)
    )

    async def main() -> None:
        pages: dict[str, bytes | Page] = {
            "/a": OK + b"Content-Length: 1\r\n\r\na",
            "/again": redirect("/a"),
            "/inside": redirect("http://inside.example/secret"),
        }
        async with site(pages) as (address, heads):
            port = address.rpartition(":")[2]

            async def get(path: str) -> dict[str, bytes]:
                downloader = ImageDownloader(resolve=Names("127.0.0.1", later))
                return await downloader.download({"x": f"http://rebinding.example:{port}{path}"})

            assert await get("/a") == {"x": b"a"}
            for path in ("/again", "/inside"):
                with pytest.raises(MGMError, match="not a public address"):
                    await get(path)
            assert len(heads) == 3

    asyncio.run(main())


def test_private_address_among_public_ones():
    def resolve(host: str, port: int, **_: object) -> list:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in ("93.184.216.34", "10.0.0.1")
        ]

    message = error_of("http://both.example/", allow_private=False, resolve=resolve)
    assert "both.example is not a public address" in message

"""Limits of connections: time-outs, sizes, counts; with real sockets and a real server."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncGenerator
from http.client import HTTPResponse

import pytest
from fastapi import Request
from fastapi.responses import StreamingResponse

from mgm.serve.http import connection
from mgm.serve.http.middleware import build_app
from tests.serve.servers import ask, running, wait_for

HEAD = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n"


def server():
    app = build_app("test", max_body=2**20)

    @app.post("/echo")
    async def echo() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/read")
    async def read(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return running(app)


@pytest.fixture
def address(monkeypatch):
    monkeypatch.setattr(connection, "HEAD_TIMEOUT", 0.3)
    monkeypatch.setattr(connection, "BODY_TIMEOUT", 0.3)
    monkeypatch.setattr(connection, "LINGER_TIMEOUT", 0.3)
    with server() as where:
        yield where


def connect(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def response(sock: socket.socket) -> tuple[int, bytes]:
    """Status and body of the next response, from any number of packets."""
    read = HTTPResponse(sock)
    read.begin()
    return read.status, read.read()


def echo(sock: socket.socket) -> None:
    """Send a request and return its response."""
    sock.sendall(HEAD + b"\r\nabcd")
    assert response(sock) == (200, b'{"status":"ok"}')


def everything(sock: socket.socket) -> bytes:
    """Everything received until the server closes the connection."""
    received = b""
    try:
        while chunk := sock.recv(65536):
            received += chunk
    except ConnectionResetError:
        pass
    return received


def seconds_until_closed(sock: socket.socket, drip: bytes = b"") -> float:
    """How long the server keeps a connection that sends a byte every 0.1 s."""
    start = time.monotonic()
    sock.settimeout(0.1)
    for number in range(100):
        try:
            if drip:
                sock.sendall(drip[number % len(drip) :][:1])
            if not sock.recv(65536):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - start


@pytest.mark.parametrize(
    ("sent", "drip"),
    [
        (b"", b""),  # no bytes
        (b"", HEAD),  # a slow head
        (HEAD, b"X-a: b\r\n"),  # an unfinished head
        (HEAD + b"\r\n", b""),  # a missing body
        (HEAD.replace(b"4", b"900") + b"\r\n", b"a"),  # a slow body
        (b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n", HEAD),  # the same for a second request
    ],
)
def test_slow_requests_time_out(address, sent, drip):
    with connect(address) as sock:
        sock.sendall(sent)
        if sent.startswith(b"GET"):
            assert response(sock)[0] == 200
        assert 0.2 < seconds_until_closed(sock, drip) < 5
    assert ask(f"{address}/health")[0] == 200


def test_unread_bodies_time_out(address):
    with connect(address) as sock:
        sock.sendall(b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n")
        assert response(sock)[0] == 404
        assert seconds_until_closed(sock, b"a") < 5


def test_keep_alive_timeout_exceeds_that_of_connection_pools(address):
    with connect(address) as sock:
        for _ in range(2):
            sock.sendall(HEAD + b"\r\nabcd")
            assert response(sock)[0] == 200
            time.sleep(0.6)  # larger than the limit of a head
        sock.sendall(HEAD + b"\r\nabcd")
        assert response(sock)[0] == 200


@pytest.mark.parametrize(
    "headers",
    [b"X-a: " + b"b" * 40_000, b"\r\n".join(b"X-%d: b" % n for n in range(200))],
)
def test_request_heads_are_limited(address, headers):
    with connect(address) as sock:
        sock.sendall(HEAD + headers + b"\r\n\r\nabcd")
        assert response(sock)[0] == 431


def test_endless_head_is_not_buffered(address):
    with connect(address) as sock:
        sock.sendall(HEAD)
        fields = (b"X-a: " + b"b" * 1000 + b"\r\n" for _ in range(2**25))
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            all(sock.sendall(field) is None for field in fields)


CHUNKED = b"POST /read HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunks(content: bytes, size: int) -> bytes:
    """A chunked body without its terminating chunk."""
    parts = [content[start : start + size] for start in range(0, len(content), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (chunks(b" " * 50_000, 1), b"/read"),
        (chunks(b" " * 500_000, 20), b"/read"),
        (chunks(b" " * 50_000, 1), b"/nowhere"),  # rejected before its body is read
        (b"1;" + b"a" * 100_000 + b"\r\n \r\n", b"/read"),
        ((b"1;" + b"a" * 1000 + b"\r\n \r\n") * 100, b"/read"),
        (b"0\r\n" + b"a: b\r\n" * 20_000, b"/read"),
        (b"0\r\na: " + b"b" * 100_000, b"/read"),
    ],
)
def test_bodies_of_tiny_chunks_are_rejected(monkeypatch, body, path):
    """Little of such a body is parsed, before and after the response."""
    parsed = 0

    class Parser(connection.RequestParser):
        def receive_data(self, data: bytes) -> None:
            nonlocal parsed
            parsed += len(data)
            super().receive_data(data)

    monkeypatch.setattr(connection, "RequestParser", Parser)
    with server() as address, connect(address) as sock:
        sock.sendall(CHUNKED.replace(b"/read", path))
        received = sock.recv(65536) if path == b"/nowhere" else b""
        sock.sendall(body)
        received += everything(sock)
        assert received.split(b" ")[1] in ((b"404",) if path == b"/nowhere" else (b"413", b"431"))
        json.loads(received.partition(b"\r\n\r\n")[2])
        assert parsed < 200_000
        assert ask(f"{address}/health")[0] == 200


@pytest.mark.parametrize(("length", "size"), [(200, 20), (2000, 1), (900_000, 128)])
def test_small_chunks_of_regular_clients_are_read(length, size):
    end = b"0\r\nX-trailer: a\r\n\r\n"
    with server() as address, connect(address) as sock:
        for _ in range(2):
            sock.sendall(CHUNKED + chunks(b" " * length, size) + end)
            assert response(sock) == (200, b'{"bytes":%d}' % length)


@pytest.mark.parametrize(
    "head",
    [
        b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n",  # 404
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n",  # 413
        CHUNKED.replace(b"/read", b"/nowhere") + b"2dc6c0\r\n",
    ],
)
def test_error_response_arrives_before_the_connection_closes(head):
    """A client that first sends all of its body gets the response, not a reset."""
    with server() as address, connect(address) as sock:
        sock.sendall(head + b"x" * 3_000_000)
        start_time = time.monotonic()
        assert b'{"error":' in everything(sock)
        assert time.monotonic() - start_time < connection.LINGER_TIMEOUT / 2


def test_rejected_request_with_a_small_body_keeps_the_connection():
    with server() as address, connect(address) as sock:
        for _ in range(2):
            sock.sendall(HEAD.replace(b"/echo", b"/nowhere") + b"\r\n")
            assert response(sock)[0] == 404
            sock.sendall(b"abcd")


@pytest.mark.parametrize("lines", [b"\r\n", b"\n", b"\r\n" * 1000])
def test_empty_lines_before_a_request_are_ignored(lines):
    request = HEAD + b"\r\nabcd"
    with server() as address, connect(address) as sock:
        sock.sendall(lines + request)
        assert response(sock)[0] == 200
        sock.sendall(request + lines)  # as old clients end a body
        assert response(sock)[0] == 200
        sock.sendall(lines[:1])
        sock.sendall(lines[1:] + request)
        assert response(sock)[0] == 200


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        ("GET /h\xe9 HTTP/1.1\r\nHost: a\r\n\r\n".encode(), b"400"),
        (b"GET /health HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /health\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", b"400"),
        (CHUNKED + b"zz\r\n", b"400"),
        (CHUNKED.replace(b"chunked", b"gzip, chunked"), b"501"),
        (b"GET /health HTTP/1.1\r\nX-a: " + b"b" * 60_000, b"431"),
    ],
)
def test_malformed_http_gets_an_openai_error(request_bytes, status):
    with server() as address, connect(address) as sock:
        sock.sendall(request_bytes)
        sock.shutdown(socket.SHUT_WR)
        head, _, body = everything(sock).partition(b"\r\n\r\n")
        assert head.split(b" ")[1] == status
        assert json.loads(body)["error"]["type"] == "invalid_request_error"


def streaming_server(left: list[float]):
    """A server whose response streams until the client disconnects."""
    app = build_app("test")

    @app.get("/endless")
    async def endless(request: Request) -> StreamingResponse:
        async def chunks() -> AsyncGenerator[bytes]:
            try:
                while True:
                    yield b"x" * (2**18 if request.query_params else 1)
                    await asyncio.sleep(0.01)
            finally:
                left.append(time.monotonic())

        return StreamingResponse(chunks())

    return running(app)


def test_disconnect_after_a_pipelined_request_is_detected():
    left: list[float] = []
    with streaming_server(left) as address:
        with connect(address) as sock:
            for _ in range(3):
                sock.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
                assert sock.recv(65536)
            closed = time.monotonic()
        wait_for(lambda: left, 5)
        assert left[0] - closed < 2


def test_pipelined_requests_are_limited():
    left: list[float] = []
    with streaming_server(left) as address, connect(address) as sock:
        sock.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        assert sock.recv(65536)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            sock.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n" * 2**19)
        wait_for(lambda: left, 5)


def test_clients_that_do_not_read_are_disconnected(monkeypatch):
    monkeypatch.setattr(connection, "CLIENT_READ_TIMEOUT", 0.3)
    left: list[float] = []
    with streaming_server(left) as address, connect(address) as sock:
        sock.sendall(b"GET /endless?large=1 HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_for(lambda: left, 10)


def test_idle_connections_are_closed_for_new_ones(monkeypatch):
    monkeypatch.setattr(connection, "MAX_CONNECTIONS", 2)
    with server() as address:
        unfinished, first, second = (connect(address) for _ in range(3))
        assert (
            everything(unfinished) == b""
        )  # no idle connection: the first one without a complete request is closed
        for sock in (second, first):
            echo(sock)
            time.sleep(0.01)
        with connect(address) as fourth:
            echo(fourth)
            assert everything(second) == b""
        echo(first)
        for sock in (first, second, unfinished):
            sock.close()


def test_unfinished_requests_do_not_block_new_connections(monkeypatch):
    monkeypatch.setattr(connection, "MAX_CONNECTIONS", 20)
    with server() as address:
        flood = []
        for number in range(60):
            flood.append(connect(address))
            flood[-1].sendall(HEAD + (b"\r\na" if number % 2 else b""))
            if number % 10 == 9:
                assert ask(f"{address}/health")[0] == 200
        for sock in flood:
            sock.close()


def test_running_responses_are_not_closed_for_new_connections(monkeypatch):
    monkeypatch.setattr(connection, "MAX_CONNECTIONS", 1)
    left: list[float] = []
    with streaming_server(left) as address, connect(address) as sock:
        sock.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        assert sock.recv(65536)
        with connect(address) as other:
            assert everything(other).startswith(b"HTTP/1.1 503")
        assert sock.recv(65536)
        assert not left

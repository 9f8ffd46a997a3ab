"""API keys, body sizes and errors of all servers."""

import argparse
import asyncio
import contextlib
import http.client
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi import Request

from mgm.errors import MGMError
from mgm.serve.http import middleware
from mgm.serve.http.middleware import bearer_token, build_app
from mgm.serve.http.server import api_keys
from mgm.serve.limits import body_memory
from tests.serve.servers import ask, running


@pytest.fixture(scope="module")
def address():
    app = build_app("test", api_keys=["right", "other"], max_body=1000)

    @app.get("/v1/models")
    async def models() -> dict[str, str]:
        return {"object": "list"}

    with running(app) as where:
        yield where


@pytest.mark.parametrize(
    ("header", "token"),
    [
        (b"Bearer right", b"right"),
        (b"bearer right", b"right"),
        (b"BEARER   right ", b"right"),
        (b"Bearer right=", b"right="),
        (b"right", None),
        (b"Bearer", None),
        (b"Bearer ", None),
        (b"Bearerright", None),
        (b"Basic right", None),
        (b"Bearer right wrong", None),
        (b"Bearer\tright", None),
        (b"", None),
    ],
)
def test_authorization_header_follows_its_rfc(header, token):
    assert bearer_token([(b"host", b"a"), (b"authorization", header)]) == token


def test_two_authorization_headers_are_invalid():
    headers = [(b"authorization", b"Bearer right"), (b"authorization", b"Bearer wrong")]
    assert bearer_token(headers) is None
    assert bearer_token([]) is None


def test_missing_key(address):
    for sent in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "right"}):
        status, answer = ask(f"{address}/v1/models", **sent)
        assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
        assert "Authorization: Bearer" in answer["error"]["message"]
    for key in ("right", "other"):
        assert ask(f"{address}/v1/models", Authorization=f"Bearer {key}")[0] == 200
    assert ask(f"{address}/openapi.json")[0] == 401


def test_key_is_checked_before_the_body(address):
    """Bodies without a valid key are neither read nor parsed."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=10)
    connection.putrequest("POST", "/v1/models")
    connection.putheader("Content-Length", "900")
    connection.endheaders()
    assert connection.getresponse().status == 401
    connection.close()


@pytest.mark.parametrize("key", ["", " ", "two words", "schlüssel", "line\nbreak"])
def test_weak_keys_are_rejected(key, monkeypatch):
    with pytest.raises(MGMError, match=r"--api-key: (the|a) key"):
        api_keys(argparse.Namespace(api_key=[key]))
    monkeypatch.setenv("MGM_API_KEYS", f"good,{key}")
    with pytest.raises(MGMError, match=r"MGM_API_KEYS: (the|a) key"):
        api_keys(argparse.Namespace(api_key=[]))


def test_keys_from_the_environment(monkeypatch):
    none = argparse.Namespace(api_key=[])
    assert api_keys(none) == []
    monkeypatch.setenv("MGM_API_KEYS", "a,b")
    assert api_keys(none) == ["a", "b"]
    assert api_keys(argparse.Namespace(api_key=["c"])) == ["c"]
    monkeypatch.setenv("MGM_API_KEYS", "")
    with pytest.raises(MGMError, match="MGM_API_KEYS: the key is empty"):
        api_keys(none)


def test_request_heads_in_every_valid_form(address):
    key = "Authorization: Bearer right"
    host, port = address.removeprefix("http://").split(":")
    for target, path in ((f"{address}/v1/models", 200), (f"{address}/nowhere", 404)):
        with socket.create_connection((host, int(port)), timeout=10) as sock:
            sock.sendall(f"GET {target} HTTP/1.1\r\nHost: a\r\n{key}\r\n\r\n".encode())
            assert sock.recv(65536).startswith(f"HTTP/1.1 {path}".encode())
    assert ask(f"{address}/v1/models%0a", Authorization="Bearer right")[0] == 404
    client = http.client.HTTPConnection(host, int(port), timeout=10)
    client.request("HEAD", "/v1/models", headers={"Authorization": "Bearer right"})
    answer = client.getresponse()
    assert (answer.status, answer.read()) == (200, b"")
    client.close()


def test_largest_body_is_dropped_for_others(monkeypatch):
    monkeypatch.setattr(middleware, "MAX_BODIES", 15_000)
    monkeypatch.setattr(body_memory, "MIN_COUNTED_BYTES", 1000)
    app = build_app("test", max_body=10_000)
    started, proceed = threading.Event(), threading.Event()

    @app.post("/echo")
    async def echo(request: Request) -> dict[str, int]:
        body = await request.body()
        if body.startswith(b"w"):
            started.set()
            await asyncio.to_thread(proceed.wait, 10)
        return {"bytes": len(body)}

    def begin(sent: int, length: int = 10_000) -> http.client.HTTPConnection:
        client = http.client.HTTPConnection(where.removeprefix("http://"), timeout=10)
        client.putrequest("POST", "/echo")
        client.putheader("Content-Length", str(length))
        client.endheaders(b"a" * sent)
        return client

    def status_of(client: http.client.HTTPConnection) -> int:
        with contextlib.closing(client):
            response = client.getresponse()
            assert response.status == 200 or response.headers["Retry-After"] == "1"
            return response.status

    with running(app) as where:
        largest, second = begin(9000), begin(5000)
        # Small bodies do not count.
        assert ask(f"{where}/echo", b"a" * 1000)[0] == 200
        # The new body is not the largest: the largest one is dropped at once.
        assert ask(f"{where}/echo", b"a" * 2000) == (200, {"bytes": 2000})
        assert status_of(largest) == 503
        # The new body is the largest.
        third, newcomer = begin(4000), begin(9000)
        assert status_of(newcomer) == 503
        third.send(b"a" * 6000)
        assert status_of(third) == 200
        second.send(b"a" * 5000)
        assert status_of(second) == 200
        # Complete bodies are kept; only the new one is incomplete.
        with ThreadPoolExecutor(1) as pool:
            running_request = pool.submit(ask, f"{where}/echo", b"w" * 9000)
            assert started.wait(10)
            assert status_of(begin(9000)) == 503
            proceed.set()
            assert running_request.result() == (200, {"bytes": 9000})
        assert ask(f"{where}/echo", b"a" * 9000) == (200, {"bytes": 9000})

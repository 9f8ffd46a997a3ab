"""Relayed requests: broken connections, slow or disconnecting clients and workers."""

import json
import re
import socket
import threading
import time
import urllib.request
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

import pytest

from mgm.serve.http.wire import encode_frame
from mgm.serve.openai.responses import DONE
from mgm.serve.router import health_check
from mgm.serve.router.app import Controller, build_controller_app
from mgm.serve.router.relay import MAX_HOPS
from mgm.serve.router.worker_registry import WorkerRegistry, WorkerStatus
from tests.serve.router.fake_worker import STATUS, FakeWorker, fake_worker, http, json_answer
from tests.serve.servers import ask, frames, free_port, running, wait_for

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
EVENT = b'data: {"a": 1}\n\n'


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(health_check, "RETRY_INTERVAL", 0.05)


@contextmanager
def controller_of(*workers: FakeWorker) -> Generator[tuple[str, WorkerRegistry]]:
    registry = WorkerRegistry()
    with running(build_controller_app(Controller(registry))) as address:
        for number, worker in enumerate(workers):
            # The first worker is preferred.
            registry.register(worker.address, STATUS | {"queue_length": number * 10}, True)
        yield address, registry


def chat(controller: str, **more: object) -> tuple[int, object]:
    return ask(f"{controller}/v1/chat/completions", BODY | more, timeout=20)


def message(response: tuple[int, object]) -> str:
    return response[1]["error"]["message"]


def good(connection: socket.socket, _: bytes) -> None:
    connection.sendall(json_answer({"ok": True}))


def begin_events(connection: socket.socket) -> None:
    connection.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    send_chunk(connection, EVENT)


def send_chunk(connection: socket.socket, content: bytes) -> None:
    connection.sendall(f"{len(content):x}\r\n".encode() + content + b"\r\n")


def read(url: str, body: object) -> bytes:
    request = urllib.request.Request(url, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=20) as response:
        return response.read()


class ReadInThread:
    """Reads a response in a thread."""

    def __init__(self, url: str, body: object) -> None:
        self.content = b""
        self.first = threading.Event()
        self.thread = threading.Thread(target=self._read, args=(url, body), daemon=True)
        self.thread.start()

    def _read(self, url: str, body: object) -> None:
        request = urllib.request.Request(url, json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=30) as response:
            while chunk := response.read1():
                self.content += chunk
                self.first.set()

    def result(self) -> bytes:
        self.thread.join(20)
        assert not self.thread.is_alive()
        return self.content


def test_keep_alive_timeout_races_with_the_next_request():
    """The worker closes an idle connection on the first byte of another request."""
    answered: dict[socket.socket, int] = {}

    def close_if_reused(connection: socket.socket, _: bytes) -> None:
        answered[connection] = answered.get(connection, 0) + 1
        if answered[connection] > 1:
            connection.shutdown(socket.SHUT_RDWR)
        else:
            connection.sendall(json_answer({"ok": True}, "Connection: keep-alive"))

    with fake_worker(close_if_reused) as worker, controller_of(worker) as (controller, registry):
        assert [chat(controller)[0] for _ in range(4)] == [200] * 4
        assert len(worker.requests) == 4
        assert registry.models == ["m"]


@pytest.mark.parametrize("status", ["100 Continue", "103 Early Hints"])
def test_endless_interim_responses_of_a_worker(status):
    def interim(connection: socket.socket, _: bytes) -> None:
        with suppress(OSError):
            while True:
                connection.sendall(f"HTTP/1.1 {status}\r\n\r\n".encode() * 1000)
        worker.closed.append(time.monotonic())

    with fake_worker(interim) as worker, controller_of(worker) as (controller, _):
        response = chat(controller)
        assert response[0] == 502
        assert message(response) == "worker disconnected before finishing; retry"
        wait_for(lambda: worker.closed, 5)


def test_tiny_chunks_of_a_worker():
    def tiny_chunks(connection: socket.socket, _: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        with suppress(OSError):
            while True:
                connection.sendall(b"1\r\nx\r\n" * 1000)
        worker.closed.append(time.monotonic())

    with fake_worker(tiny_chunks) as worker, controller_of(worker) as (controller, _):
        response = chat(controller)
        assert response[0] == 502
        assert message(response) == "worker disconnected before finishing; retry"
        wait_for(lambda: worker.closed, 5)


def test_requests_that_crash_a_worker_are_not_retried():
    with (
        fake_worker(break_off) as first,
        fake_worker(good) as second,
        controller_of(first, second) as (controller, registry),
    ):
        response = chat(controller)
        assert response[0] == 502
        assert message(response) == "worker disconnected before finishing; retry"
        assert (len(first.requests), len(second.requests)) == (1, 0)
        # Its status is valid: it stays registered.
        wait_for(lambda: first.status_requests, 5)
        time.sleep(0.2)
        assert set(registry.workers) == {first.address, second.address}


def test_crashed_worker_ends_its_own_requests_only():
    going_on, read = threading.Event(), threading.Event()

    def answer(connection: socket.socket, request: bytes) -> None:
        if b"die" in request:
            begin_events(connection)
            read.wait(10)  # data that arrives together with the close is lost
            connection.shutdown(socket.SHUT_RDWR)
            return
        begin_events(connection)
        going_on.wait(10)
        send_chunk(connection, b"data: [DONE]\n\n")
        connection.sendall(b"0\r\n\r\n")

    with fake_worker(answer) as worker, controller_of(worker) as (controller, registry):
        url = f"{controller}/v1/chat/completions"
        other = ReadInThread(url, BODY)
        assert other.first.wait(5)
        failing = ReadInThread(url, BODY | {"user": "die"})
        assert failing.first.wait(5)
        read.set()
        broken = failing.result()
        assert broken.startswith(EVENT)
        error = json.loads(broken.removeprefix(EVENT).removeprefix(b"data: "))["error"]
        assert error["type"] == "server_error"
        published = {"model": "m", "prompt": "die"}
        data = json.dumps(published).encode()
        with urllib.request.urlopen(
            urllib.request.Request(f"{controller}/worker_generate_stream", data)
        ) as response:
            *_, last, end = response.read().split(b"\0")
        assert end == b""
        assert json.loads(last)["error_code"] == 3
        # A failed health check removes the worker; its running response continues.
        worker.status = http(b"down", "500 Down")
        ReadInThread(url, BODY | {"user": "die"}).result()
        wait_for(lambda: not registry.workers, 5)
        going_on.set()
        assert other.result() == EVENT + b"data: [DONE]\n\n"


def test_unsent_requests_fail_over():
    dead = FakeWorker(good, address=f"http://127.0.0.1:{free_port()}")
    with fake_worker(good) as second, controller_of(dead, second) as (controller, registry):
        assert [chat(controller)[0] for _ in range(3)] == [200] * 3
        wait_for(lambda: set(registry.workers) == {second.address}, 5)
    with controller_of(dead) as (controller, _):
        response = chat(controller)
        assert response[0] == 503
        assert response[1]["error"]["code"] == "worker_unavailable"
        (only,) = frames(f"{controller}/worker_generate_stream", {"model": "m", "prompt": "hi"})
        assert only["error_code"] == 2


def test_hung_worker(monkeypatch):
    monkeypatch.setattr("mgm.serve.router.worker_client.STATUS_TIMEOUT", 0.3)

    def never(connection: socket.socket, _: bytes) -> None:
        worker.wait_until_closed(connection)

    with fake_worker(never, None) as worker, controller_of(worker) as (controller, registry):
        registry.heartbeat_timeout = 1.0
        start_time = time.monotonic()
        assert chat(controller)[0] == 502
        assert time.monotonic() - start_time < 5
        assert chat(controller)[0] == 404


def test_lost_heartbeats_do_not_end_running_requests(monkeypatch):
    monkeypatch.setattr(health_check, "WATCH_INTERVAL", 0.05)

    def think(connection: socket.socket, _: bytes) -> None:
        time.sleep(2.5)
        good(connection, b"")

    with fake_worker(think) as worker, controller_of(worker) as (controller, registry):
        registry.heartbeat_timeout = 0.3
        assert chat(controller) == (200, {"ok": True})
        assert len(worker.status_requests) > 3
        assert set(registry.workers) == {worker.address}


def break_off(connection: socket.socket, _: bytes) -> None:
    connection.shutdown(socket.SHUT_RDWR)


def refuse(connection: socket.socket, _: bytes) -> None:
    connection.sendall(http(b"{}", "403 Forbidden"))


def fault(connection: socket.socket, _: bytes) -> None:
    connection.sendall(http(b'{"error": {}}', "500 Fault", "Content-Type: application/json"))


def end_early(connection: socket.socket, _: bytes) -> None:
    begin_events(connection)
    connection.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("breaks", [break_off, refuse, fault, end_early])
def test_worker_that_only_answers_its_status_gets_few_requests(breaks):
    with (
        fake_worker(breaks) as broken,
        fake_worker(good) as honest,
        controller_of(broken, honest) as (controller, registry),
    ):
        registry.workers[broken.address].status = WorkerStatus(**STATUS | {"speed": 100})

        def send(_: int) -> None:
            with suppress(urllib.error.HTTPError):
                read(f"{controller}/v1/chat/completions", BODY)

        with ThreadPoolExecutor(8) as pool:
            send(0)
            list(pool.map(send, range(100)))
        # It gets a request now and then: the first, then after 1, 3 and 7 seconds.
        assert 1 <= len(broken.requests) <= 4
        assert len(honest.requests) == 101 - len(broken.requests)
        assert set(registry.workers) == {broken.address, honest.address}
        # It is used if there is no other.
        registry.remove(honest.address)
        before = len(broken.requests)
        send(0)
        assert len(broken.requests) == before + 1


def test_recovered_worker_gets_requests_again():
    failing = [break_off]

    def answer(connection: socket.socket, request: bytes) -> None:
        (failing or [good])[0](connection, request)

    with (
        fake_worker(answer) as first,
        fake_worker(good) as second,
        controller_of(first, second) as (controller, _),
    ):
        assert chat(controller)[0] == 502
        failing.clear()
        assert chat(controller)[0] == 200
        assert len(second.requests) == 1
        time.sleep(1.1)
        assert [chat(controller)[0] for _ in range(3)] == [200] * 3
        assert len(first.requests) == 4


UNFRAMED = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: "


@pytest.mark.parametrize(
    ("path", "kind", "whole", "cut"),
    [
        ("v1/chat/completions", b"text/event-stream", EVENT + DONE, EVENT),
        ("v1/chat/completions", b"text/event-stream", EVENT + b"data: [DONE]", DONE[:-5]),
        ("v1/chat/completions", b"text/event-stream", DONE, b""),
        ("v1/chat/completions", b"application/json", b'{"a": {}}', b'{"a": {}'),
        ("v1/chat/completions", b"application/json", b"{}", b""),
        ("worker_generate_stream", b"text/plain", encode_frame("a"), encode_frame("a")[:-1]),
        ("worker_generate_stream", b"text/plain", encode_frame("a") * 2, b""),
    ],
)
def test_truncated_stream_without_content_length_is_an_error(path, kind, whole, cut):
    def answer(connection: socket.socket, request: bytes) -> None:
        connection.sendall(UNFRAMED + kind + b"\r\n\r\n" + (cut if b"cut" in request else whole))
        connection.shutdown(socket.SHUT_WR)

    with fake_worker(answer) as worker, controller_of(worker) as (controller, registry):
        assert read(f"{controller}/{path}", BODY) == whole
        body = BODY | {"user": "cut"}
        if kind == b"application/json":
            status, answer = ask(f"{controller}/{path}", body)
            assert status == 502
            content = json.dumps(answer).encode()
        else:
            content = read(f"{controller}/{path}", body)
            assert content.startswith(cut)
        assert b"worker disconnected before finishing" in content
        if kind == b"text/plain":
            assert json.loads(content.split(b"\0")[-2])["error_code"] == 3
        with urllib.request.urlopen(f"{controller}/metrics") as response:
            metrics = response.read().decode()
        assert 'outcome="gone"} 1.0' in metrics
        assert 'outcome="ok"} 1.0' in metrics
        assert registry.workers[worker.address].failures == 1


@pytest.mark.parametrize(
    ("path", "sends_head"),
    [
        ("/v1/chat/completions", False),
        ("/v1/chat/completions", True),
        ("/worker_generate_stream", False),
        ("/worker_generate_stream", True),
    ],
)
@pytest.mark.parametrize("depth", [1, 2])
def test_client_disconnect_is_detected(path, sends_head, depth):
    def hang(connection: socket.socket, _: bytes) -> None:
        if sends_head:
            begin_events(connection)
        worker.wait_until_closed(connection)

    with ExitStack() as stack:
        worker = stack.enter_context(fake_worker(hang))
        controller = worker.address
        for _ in range(depth):
            registry = WorkerRegistry()
            app = build_controller_app(Controller(registry))
            registry.register(controller, STATUS, False)
            controller = stack.enter_context(running(app))
        host, port = controller.removeprefix("http://").split(":")
        data = json.dumps(BODY).encode()
        with socket.create_connection((host, int(port))) as client:
            client.sendall(
                f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode()
                + data
            )
            wait_for(lambda: worker.requests, 5)
            if sends_head:
                assert client.recv(65536)
            left = time.monotonic()
        wait_for(lambda: worker.closed, 5)
        assert worker.closed[0] - left < 2
        wait_for(lambda: next(iter(registry.workers.values())).queue_length == 0, 2)


def test_responses_are_passed_through():
    body = b'{"error":  {"message": "full"}}'
    content = b"x" * 3_000_000

    def answer(connection: socket.socket, request: bytes) -> None:
        if b"images" in request:
            connection.sendall(http(content, "200 OK", "Content-Type: image/png"))
            return
        headers = ("Content-Type: application/json", "Retry-After: 7", "X-Request-Id: 42")
        rogue = ("Set-Cookie: a=b", "Access-Control-Allow-Origin: *")
        connection.sendall(http(body, "429 Busy", *headers, *rogue))

    with fake_worker(answer) as worker, controller_of(worker) as (controller, _):
        raw = b'{"model":\t"m",  "messages": [], "model": "m"}'
        for path in (
            "v1/chat/completions",
            "v1/completions",
            "v1/attribution",
            "v1/mined",
            "worker_generate_stream",
        ):
            request = urllib.request.Request(
                f"{controller}/{path}", raw, {"Authorization": "Bearer client", "X-Request-Id": "9"}
            )
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(request, timeout=10)
            with caught.value as error:
                assert (error.code, error.read()) == (429, body)
                assert error.headers["Retry-After"] == "7"
                assert error.headers["X-Request-Id"] == "42"
                assert error.headers["Content-Type"] == "application/json"
                assert "Set-Cookie" not in error.headers
                assert "Access-Control-Allow-Origin" not in error.headers
            assert worker.requests[-1].startswith(f"POST /{path} ".encode())
            assert worker.requests[-1].endswith(b"\r\n\r\n" + raw)
            assert b"client" not in worker.requests[-1]
            assert b"\r\nx-request-id: 9\r\n" in worker.requests[-1]
        long = urllib.request.Request(f"{controller}/v1/images/generations", raw)
        with urllib.request.urlopen(long, timeout=10) as response:
            assert response.headers["Content-Type"] == "image/png"
            assert response.read() == content


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("path", ["v1/chat/completions", "worker_generate_stream"])
def test_controller_loops_are_detected(count, path):
    registries = [WorkerRegistry() for _ in range(count)]
    with ExitStack() as stack:
        addresses = [
            stack.enter_context(running(build_controller_app(Controller(registry))))
            for registry in registries
        ]
        for registry, below in zip(registries, [*addresses[1:], addresses[0]], strict=True):
            registry.register(below, STATUS, False)
        status, reply = ask(f"{addresses[0]}/{path}", BODY)
        assert status == 508
        assert reply["error"]["code"] == "controller_loop"
        metrics = [urllib.request.urlopen(f"{one}/metrics").read().decode() for one in addresses]
        answered = re.findall(r'requests_total{outcome="ok"} ([0-9.]+)', "".join(metrics))
        assert sum(map(float, answered)) == MAX_HOPS


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("text/html", "application/octet-stream"),
        ("image/svg+xml", "application/octet-stream"),
        ("Text/HTML;charset=utf-8", "application/octet-stream"),
        ("application/json; charset=utf-8", "application/json; charset=utf-8"),
        ("text/plain", "text/plain"),
    ],
)
@pytest.mark.parametrize("status", ["200 OK", "500 Fault"])
def test_html_of_workers_is_not_relayed(kind, shown, status):
    def answer(connection: socket.socket, _: bytes) -> None:
        connection.sendall(http(b"<script>", status, f"Content-Type: {kind}"))

    with fake_worker(answer) as worker, controller_of(worker) as (controller, _):
        request = urllib.request.Request(
            f"{controller}/v1/chat/completions", json.dumps(BODY).encode()
        )
        try:
            response = urllib.request.urlopen(request, timeout=10)
        except urllib.error.HTTPError as error:
            response = error
        assert response.headers["Content-Type"] == shown
        assert response.headers["X-Content-Type-Options"] == "nosniff"


ROGUE = {
    "unknown status": http(b"{}", "599 Odd"),
    "redirect": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    "status": b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "key refused": http(b"{}", "401 Unauthorized"),
    "no HTTP": b"hello\r\n\r\n",
    "binary": bytes(range(256)) * 4,
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 400 + b"\r\n\r\nx",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n",
    "long chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\nx",
    "header": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\n",
    "headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
    "short": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nxx",
}


@pytest.mark.parametrize("kind", ROGUE)
def test_malformed_responses_fail_their_own_requests_only(kind):
    def answer(connection: socket.socket, _: bytes) -> None:
        connection.sendall(ROGUE[kind])
        connection.shutdown(socket.SHUT_RDWR)

    with (
        fake_worker(answer) as rogue,
        fake_worker(good) as honest,
        controller_of(rogue) as (controller, registry),
    ):
        registry.register(honest.address, STATUS | {"model_names": ["h"]}, True)
        response = chat(controller)
        assert response[0] == 502
        assert response[1]["error"]["type"] == "server_error"
        # Addresses of workers are not shown to clients.
        assert rogue.address.removeprefix("http://") not in json.dumps(response)
        assert chat(controller, model="h") == (200, {"ok": True})
        assert honest.requests[0].count(b"POST /") == 1


@pytest.mark.parametrize(
    "value", [b"caf\xe9", b"\xff\xfe", b"a\x01b", b"x" * 5000, "text/html; \u2028".encode()]
)
def test_unexpected_content_types_are_not_relayed(value):
    def answer(connection: socket.socket, _: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: " + value + b"\r\n\r\n"
        connection.sendall(head + b"{}")

    with fake_worker(answer) as rogue, controller_of(rogue) as (controller, _):
        assert chat(controller)[0] in (200, 502)
        assert chat(controller, model="x")[0] == 404

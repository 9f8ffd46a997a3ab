"""Heartbeats of a worker to a fake controller."""

import json
import logging
import socket
import time
from contextlib import contextmanager
from itertools import pairwise

import pytest

from mgm.errors import MGMError
from mgm.serve.http.heartbeat import HeartbeatClient
from tests.serve.router.fake_worker import fake_worker, http
from tests.serve.servers import free_port, wait_for

OWN = "http://localhost:40000"


class FakeController:
    """Responds with the entry of `answers` for a path, and records requests."""

    def __init__(self, **answers: bytes) -> None:
        responses = {"register_worker": b"null", "receive_heart_beat": b'{"exist": true}'}
        self.answers = {path: http(body) for path, body in responses.items()} | answers
        self.received: list[tuple[str, dict]] = []
        self.heads: list[bytes] = []

    def __call__(self, connection: socket.socket, request: bytes) -> None:
        head, _, body = request.partition(b"\r\n\r\n")
        path = head.split()[1].decode().rpartition("/")[2]
        self.heads.append(head)
        self.received.append((path, json.loads(body)))
        connection.sendall(self.answers.get(path, http(b"{}", "404 Not Found")))

    def paths(self) -> list[str]:
        return [path for path, _ in self.received]


@contextmanager
def beating(controller: str, status: dict, interval: float = 0.02, **options: object):
    client = HeartbeatClient(lambda: status, OWN, controller, interval=interval, **options)
    client.start()
    try:
        yield client
    finally:
        client.stop()


def status_of(*names: str) -> dict:
    return {"model_names": list(names), "speed": 1, "queue_length": 0}


def test_registration_heartbeats_and_deregistration():
    controller, status = FakeController(), status_of("m")
    with fake_worker(controller) as server:
        with beating(f"{server.address}/below/", status, worker_key="k"):
            wait_for(lambda: len(controller.received) > 3, 5)
            # A restarted controller has no workers.
            controller.answers["receive_heart_beat"] = http(b'{"exist": false}')
            wait_for(lambda: controller.paths().count("register_worker") > 1, 5)
            controller.answers["receive_heart_beat"] = http(b'{"exist": true}')
            # Changed models are registered again.
            before = len(controller.received)
            status["model_names"] = ["m", "n"]
            wait_for(lambda: "register_worker" in controller.paths()[before:], 5)
            assert controller.received[-1][1]["worker_name"] == OWN
        assert controller.received[0] == (
            "register_worker",
            {"worker_name": OWN, "check_heart_beat": True, "worker_status": status_of("m")},
        )
        beat = {"worker_name": OWN, "queue_length": 0, "worker_status": status_of("m")}
        assert controller.received[1] == ("receive_heart_beat", beat)
        assert controller.paths()[-1] == "unregister_worker"
        assert all(b"POST /below/" in head for head in controller.heads)
        assert all(b"\r\nAuthorization: Bearer k" in head for head in controller.heads)


def test_workers_without_models_or_draining_do_not_register():
    controller, status, draining = FakeController(), status_of(), []
    with (
        fake_worker(controller) as server,
        beating(server.address, status, draining=lambda: bool(draining)) as client,
    ):
        assert not controller.received
        status["model_names"] = ["m"]
        wait_for(lambda: "receive_heart_beat" in controller.paths(), 5)
        draining.append(True)
        wait_for(lambda: controller.paths()[-1] == "unregister_worker", 5)
        before = len(controller.received)
        client._stop.wait(0.1)
        assert len(controller.received) <= before + 1


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
def test_rejection_is_logged_once_with_the_needed_flag(status, caplog):
    controller = FakeController(register_worker=http(b"{}", status))
    with (
        caplog.at_level(logging.WARNING, "mgm.serve"),
        fake_worker(controller) as server,
        beating(server.address, status_of("m")),
    ):
        wait_for(lambda: len(controller.received) > 5, 5)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "--worker-key" in line
    assert "--trust-network" in line
    assert "\n" not in line


def test_redirects_and_proxies_are_ignored(monkeypatch, caplog):
    stolen = FakeController()
    with fake_worker(stolen) as thief:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, thief.address)
        location = f"Location: {thief.address}/register_worker"
        for code in (301, 302, 303, 307, 308):
            honest = FakeController(register_worker=http(b"", f"{code} Elsewhere", location))
            with fake_worker(honest) as server, beating(server.address, status_of("m")):
                wait_for(lambda seen=honest.received: len(seen) > 2, 5)
            assert f"status {code}" in caplog.text
        assert not thief.requests


@pytest.mark.parametrize(
    "answer",
    [
        b"no HTTP at all\r\n\r\n", b"", http(b"{"), http(b"[" * 100_000), http(b"\xff"),
        http(b'bad \n\x1b[31m"', "400 Bad"), b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx",
    ],
)  # fmt: skip
def test_heartbeats_survive_any_response(answer, caplog):
    controller = FakeController(register_worker=answer)

    def request_slot(connection: socket.socket, request: bytes) -> None:
        controller(connection, request)
        if not answer.startswith(b"HTTP") or b": 9" in answer:
            connection.shutdown(socket.SHUT_RDWR)

    with fake_worker(request_slot) as server, beating(server.address, status_of("m")) as client:
        wait_for(lambda: len(controller.received) > 3, 5)
        assert client._thread.is_alive()
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(lines) == 1
    assert lines[0].isprintable()


@pytest.mark.parametrize("failure", ["503 Down", "500 Fault", "429 Busy", "closed"])
def test_failed_heartbeats_are_retried_early(failure, monkeypatch):
    monkeypatch.setattr("mgm.serve.http.heartbeat.RETRY_DELAY", 0.1)
    controller, times, failing = FakeController(), [], [1]

    def answer(connection: socket.socket, request: bytes) -> None:
        times.append(time.monotonic())
        if len(times) not in failing:
            controller(connection, request)
        elif failure == "closed":
            connection.shutdown(socket.SHUT_RDWR)
        else:
            connection.sendall(http(b"{}", failure))

    with fake_worker(answer) as server, beating(server.address, status_of("m"), interval=2.0):
        wait_for(lambda: controller.received, 1)
        # Repeated failures are retried with increasing delays.
        failing.extend(range(3, 6))
        wait_for(lambda: len(times) > 5, 5)
    gaps = [after - before for before, after in pairwise(times[1:6])]
    assert gaps[0] == pytest.approx(
        2.0 - (times[1] - times[0]), abs=0.2
    )  # back in the regular interval
    assert gaps[1:] == pytest.approx([0.1, 0.2, 0.4], abs=0.15)


def test_heartbeats_keep_their_interval():
    controller, times = FakeController(), []

    def answer(connection: socket.socket, request: bytes) -> None:
        times.append(time.monotonic())
        time.sleep(0.15)
        controller(connection, request)

    with fake_worker(answer) as server, beating(server.address, status_of("m"), interval=0.2):
        wait_for(lambda: len(times) > 5, 5)
    assert times[5] - times[0] == pytest.approx(5 * 0.2, abs=0.15)


def test_missing_controller(caplog):
    with beating(f"http://localhost:{free_port()}", status_of("m")) as client:
        client._stop.wait(0.1)
        assert client._thread.is_alive()
    assert len(caplog.records) == 1


@pytest.mark.parametrize("url", ["", "localhost:1", "http://", "ftp://a", "http://a:0", "http://a:x",
                                 "http://u@a", "http://a?b", "http://[::1"])  # fmt: skip
def test_invalid_addresses(url):
    with pytest.raises(MGMError, match="URL"):
        HeartbeatClient(dict, OWN, url)


def test_worker_address_with_a_path():
    with pytest.raises(MGMError, match="give http://HOST:PORT"):
        HeartbeatClient(dict, "http://a:1/b", "http://localhost:1")

"""Workers for tests of clients, image sites and engine errors."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Generator

import pytest

import mgm
from mgm.serve.worker.app import build_worker_app
from mgm.serve.worker.image_download import ImageDownloader
from mgm.serve.worker.image_fetcher import ImageFetcher
from mgm.serve.worker.worker import Limits, Worker
from tests.serve.servers import running
from tests.tiny_model import build


@pytest.fixture(scope="session")
def endless_folder(tmp_path_factory):
    """A model without stop tokens."""
    return build(tmp_path_factory.mktemp("models") / "endless", positions=4096, endless=True)


@pytest.fixture(scope="module")
def endless_worker(endless_folder):
    images = ImageFetcher(ImageDownloader(allow_private=True, timeout=2.0))
    engine = mgm.load(endless_folder, device="cpu")
    return Worker(engine, ("e",), Limits(max_concurrency=8, max_queue=64), images)


@pytest.fixture(scope="module")
def endless_address(endless_worker):
    with running(build_worker_app(endless_worker)) as address:
        yield address


@pytest.fixture(scope="module")
def dripping_site():
    """The address of a server that sends a byte now and then, without end."""
    stopped = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while not stopped.wait(0.1):
                connection.sendall(b"x")

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=drip, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        stopped.set()
        listener.shutdown(socket.SHUT_RDWR)


def send(
    address: str, path: str, body: dict, connection: socket.socket | None = None
) -> socket.socket:
    """Send a request on a new connection, without reading the response."""
    host, _, port = address.removeprefix("http://").partition(":")
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
    connection = connection or socket.socket()
    connection.connect((host, int(port)))
    connection.sendall(head.encode() + content)
    return connection


@contextlib.contextmanager
def within(seconds: float, condition: Callable[[], bool]) -> Generator[None]:
    """Assert that a condition holds soon after the block."""
    yield
    end = time.perf_counter() + seconds
    while not condition():
        assert time.perf_counter() < end, f"not within {seconds} s"
        time.sleep(0.02)

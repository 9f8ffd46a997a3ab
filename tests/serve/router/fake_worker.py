"""Fake workers on raw sockets, which send any bytes at any time."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

STATUS = {"model_names": ["m"], "speed": 1, "queue_length": 0}


def http(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """A complete HTTP response."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def json_answer(content: object, *headers: str) -> bytes:
    return http(json.dumps(content).encode(), "200 OK", "Content-Type: application/json", *headers)


@dataclass
class FakeWorker:
    """Attributes:
    answer: takes a connection and a request that was read from it.
    status: bytes of the response to `worker_get_status`; None: none comes.
    requests: heads and bodies of all others.
    closed: when connections were found closed by the controller, for `wait_until_closed`.
    """

    answer: Callable[[socket.socket, bytes], None]
    status: bytes | None = field(default_factory=lambda: json_answer(STATUS))
    requests: list[bytes] = field(default_factory=list)
    status_requests: list[bytes] = field(default_factory=list)
    closed: list[float] = field(default_factory=list)
    address: str = ""

    def serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while request := read_request(connection):
                if request.startswith(b"POST /worker_get_status"):
                    self.status_requests.append(request)
                    if self.status is None:
                        connection.recv(1)  # until the controller gives up
                        return
                    connection.sendall(self.status)
                else:
                    self.requests.append(request)
                    self.answer(connection, request)

    def wait_until_closed(self, connection: socket.socket) -> None:
        """Wait until the controller closes a connection."""
        with contextlib.suppress(OSError):
            connection.recv(1)
        self.closed.append(time.monotonic())


def read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        received = connection.recv(65536)
        if not received:
            return b""
        data += received
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    length = int(lengths[0].partition(b":")[2]) if lengths else 0
    while len(body) < length:
        received = connection.recv(65536)
        body += received
        if not received:
            break
    return head + b"\r\n\r\n" + body


@contextlib.contextmanager
def fake_worker(
    answer: Callable[[socket.socket, bytes], None], status: bytes | None = json_answer(STATUS)
) -> Generator[FakeWorker]:
    """Run a fake worker."""
    worker = FakeWorker(answer, status)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        worker.address = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=worker.serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield worker
        finally:
            # close() alone leaves a thread in accept(), which keeps the socket listening.
            listener.shutdown(socket.SHUT_RDWR)

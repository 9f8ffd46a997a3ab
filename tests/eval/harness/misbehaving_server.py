"""A server with the OpenAI API that sends given replies, one after the other."""

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Reply:
    """A reply of the server; the last of several is repeated.

    Attributes:
        body: bytes, or a value that is sent as JSON.
        status: HTTP status.
        headers: additional headers.
        cut: number of bytes of the body after which the connection is closed; None: all.
        delay: seconds before the reply.
        close: whether the connection is closed without a reply.
    """

    body: Any = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    delay: float = 0.0
    close: bool = False


def reply_with(text: Any, **message: Any) -> Reply:
    """A chat completion with this content."""
    choice = {"message": {"content": text, **message}, "finish_reason": "stop"}
    return Reply({"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 2}})


def refused(text: str, status: int = 400) -> Reply:
    return Reply({"error": {"message": text}}, status)


Answer = Callable[[dict[str, Any]], Reply]


@contextmanager
def server(*replies: Reply | Answer) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Run the server; yields its address, and the bodies of requests."""
    bodies: list[dict[str, Any]] = []
    lock = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(Reply({"error": "a GET"}, 405))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                bodies.append(body)
                reply = replies[min(len(bodies), len(replies)) - 1]
            self._send(reply(body) if callable(reply) else reply)

        def _send(self, reply: Reply) -> None:
            time.sleep(reply.delay)
            self.close_connection = True
            if reply.close:
                return
            body = reply.body
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            with suppress(OSError):  # the client has disconnected
                self.end_headers()
                self.wfile.write(content[: reply.cut])

        def log_message(self, *words: object) -> None:
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{running.server_port}/v1", bodies
    finally:
        running.shutdown()
        running.server_close()

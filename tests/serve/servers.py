"""Real servers for tests, in a thread or in processes."""

import contextlib
import json
import os
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

from tests.preloaded import PYTHON

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(app: Any) -> Generator[str]:
    """Serve a FastAPI application; yields its address."""
    import uvicorn  # imported here, since tests without servers use the rest

    from mgm.serve.http.server import CONNECTION_SETTINGS

    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(app, port=port, log_level="warning", **CONNECTION_SETTINGS)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def start(module: str, *words: str, python: str = PYTHON) -> subprocess.Popen[str]:
    """Start a program of mgm.serve as a process."""
    return subprocess.Popen(
        [python, "-m", f"mgm.serve.{module}", *words],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition, seconds: float = 90) -> None:
    """Wait until a condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it takes too long"
        time.sleep(0.05)


def ask(url: str, body: Any = None, timeout: float = 60, **headers: str) -> tuple[int, Any]:
    """Status and JSON of a request; a POST if there is a body."""
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} | headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return response.status, json.loads(response.read() or b"null")
    except urllib.error.HTTPError as error:
        content = error.read()
        return error.code, json.loads(content) if content.startswith(b"{") else content


def is_up(address: str) -> bool:
    with contextlib.suppress(OSError):
        return ask(f"{address}/health", timeout=2)[0] == 200
    return False


def frames(url: str, body: Any, timeout: float = 60) -> list[dict[str, Any]]:
    """The frames of a published stream, parsed as the published page does."""
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=timeout) as response:
        return [json.loads(part) for part in response.read().split(b"\0") if part]

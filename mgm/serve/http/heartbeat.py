"""Heartbeats: registers a worker at a controller, and re-registers after a controller restart."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import SplitResult, urlsplit

from mgm.errors import MGMError
from mgm.serve.http.wire import HEARTBEAT_INTERVAL, parse_worker_address

logger = logging.getLogger("mgm.serve")

RESPONSE_TIMEOUT = 5.0  # seconds
RETRY_DELAY = 1.0  # seconds after a failed heartbeat; doubled with each further failure
MAX_RESPONSE_BYTES = 64 * 2**10
WORKER_KEY_HINT = (
    "start both with the same --worker-key, or the controller with --trust-network if everyone in "
    "its network may register workers"
)


class HeartbeatClient:
    """Sends heartbeats to a controller until it is stopped.

    The schedule is fixed, however long a heartbeat takes. A failed one is repeated after 1 s, 2 s,
    4 s and so on, since the controller's timeout is only two intervals.

    Redirects are not followed, and proxies of the environment not used: the worker key is for the
    controller only.

    Args:
        status: returns the worker's status, see `Worker.status`; without models the worker is not
            registered.
        address: address of the worker for the controller: scheme, host and port.
        controller: URL of the controller.
        worker_key: authenticates the worker, if the controller has one.
        interval: seconds between two heartbeats.
        draining: whether the worker is shutting down; it is then unregistered.

    Raises:
        MGMError: an address is invalid.
    """

    def __init__(
        self,
        status: Callable[[], dict[str, Any]],
        address: str,
        controller: str,
        worker_key: str | None = None,
        interval: float = HEARTBEAT_INTERVAL,
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self.status, self.draining, self.interval = status, draining, interval
        self.address = parse_worker_address(address)
        self.controller = controller.rstrip("/")
        self._url = split_controller_url(self.controller)
        self._headers = {"Content-Type": "application/json"}
        if worker_key is not None:
            self._headers["Authorization"] = f"Bearer {worker_key}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="heartbeat")
        self._registered: list[Any] = []  # names of the registered models
        self._last_problem = ""

    @asynccontextmanager
    async def lifespan(self, _app: object = None) -> AsyncGenerator[None]:
        """Send heartbeats while a server runs; for FastAPI's `lifespan`."""
        self.start()
        try:
            yield
        finally:
            await asyncio.to_thread(self.stop)

    def start(self) -> None:
        """Start the thread that registers the worker and sends heartbeats."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the heartbeats and unregister the worker."""
        self._stop.set()
        self._thread.join(RESPONSE_TIMEOUT)
        self._unregister()

    def _run(self) -> None:
        next_beat, failures = time.monotonic(), 0
        while True:
            failures = 0 if self._try_heartbeat() else failures + 1
            now = time.monotonic()
            # Heartbeats missed by a suspended machine are skipped.
            next_beat += max(0, (now - next_beat) // self.interval + 1) * self.interval
            delay = RETRY_DELAY * 2 ** min(failures - 1, 10)
            if self._stop.wait(min(delay, next_beat - now) if failures else next_beat - now):
                return

    def _try_heartbeat(self) -> bool:
        """Send one heartbeat; returns whether it succeeded. A new problem is logged."""
        try:
            self._send_heartbeat()
        except (OSError, HTTPException, ValueError) as error:
            problem = ascii(str(error) or type(error).__name__)[1:-1]  # may quote a response
            if problem != self._last_problem:  # once, not at every interval
                logger.warning("controller %s: heartbeat failed: %s", self.controller, problem)
            self._last_problem = problem
            return False
        self._last_problem = ""
        return True

    def _send_heartbeat(self) -> None:
        """Send one heartbeat; register the worker if it is not, or if its models changed."""
        status = self.status()
        names = [*status["model_names"], None, *status.get("drawers", ())]
        if self.draining() or not status["model_names"]:
            if self._registered:
                self._unregister()
            return
        if names == self._registered:
            heartbeat = {
                "worker_name": self.address,
                "queue_length": status["queue_length"],
                "worker_status": status,  # published controllers ignore it
            }
            if self._post("receive_heart_beat", heartbeat).get("exist"):
                return
        registration = {
            "worker_name": self.address,
            "check_heart_beat": True,
            "worker_status": status,
        }
        self._post("register_worker", registration)
        self._registered = names
        logger.info("registered at %s as %s", self.controller, self.address)

    def _unregister(self) -> None:
        self._registered = []
        try:
            self._post("unregister_worker", {"worker_name": self.address})
        except (OSError, HTTPException, ValueError):
            return  # no such endpoint in published controllers, or the controller stopped

    def _post(self, path: str, content: dict[str, Any]) -> dict[str, Any]:
        kind = HTTPSConnection if self._url.scheme == "https" else HTTPConnection
        connection = kind(self._url.hostname or "", self._url.port, timeout=RESPONSE_TIMEOUT)
        try:
            body = json.dumps(content).encode()
            connection.request("POST", f"{self._url.path}/{path}", body, self._headers)
            response = connection.getresponse()
            text = response.read(MAX_RESPONSE_BYTES)
        finally:
            connection.close()
        if response.status in (401, 403):
            raise MGMError(f"it refuses this worker ({response.status}); {WORKER_KEY_HINT}")
        if response.status != 200:
            excerpt = text[:300].decode(errors="replace")
            raise MGMError(f"it responds with status {response.status}: {excerpt}")
        try:
            body = json.loads(text or b"null")
        except (ValueError, RecursionError) as error:
            raise MGMError("its response is not JSON") from error
        return body if isinstance(body, dict) else {}


def split_controller_url(url: str) -> SplitResult:
    """Split the URL of a controller, which may have a path as a prefix of endpoints.

    Raises:
        MGMError: the URL is invalid.
    """
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid or any((parts.username, parts.password, parts.query, parts.fragment)):
        raise MGMError(f"{url!r:.100} is not the URL of a controller; give http://HOST:PORT")
    return parts

"""A worker's heart: it tells the controller that the worker lives, and comes back to a new one."""

import json
import logging
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from mgm.serve.http.wire import HEART_BEAT

logger = logging.getLogger("mgm.serve")

PATIENCE = 5.0  # seconds for an answer of the controller


class Heart:
    """Beats until it is stopped.

    Args:
        status: what the worker says of itself, see `Worker.status`.
        address: where others reach the worker.
        controller: address of the controller.
        key: that the controller asks for, if any.
        interval: seconds between two beats.
    """

    def __init__(
        self,
        status: Callable[[], dict[str, Any]],
        address: str,
        controller: str,
        key: str | None = None,
        interval: float = HEART_BEAT,
    ) -> None:
        self.status, self.address, self.controller = status, address, controller
        self.interval = interval
        self._headers = {"Content-Type": "application/json"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="heart")
        self._known = False

    def start(self) -> None:
        """Register at the controller, and go on."""
        self._thread.start()

    def stop(self) -> None:
        """Tell the controller that the worker is leaving."""
        self._stop.set()
        self._thread.join(PATIENCE)
        try:
            self._post("unregister_worker", {"worker_name": self.address})
        except (OSError, ValueError):
            return  # an old controller does not know it, or is gone

    def _beat(self) -> None:
        while True:
            try:
                if self._known:
                    length = self.status()["queue_length"]
                    beat = {"worker_name": self.address, "queue_length": length}
                    self._known = bool(self._post("receive_heart_beat", beat).get("exist"))
                if not self._known:
                    self._register()
            except (OSError, ValueError) as error:
                logger.warning("the controller %s does not answer: %s", self.controller, error)
            if self._stop.wait(self.interval):
                return

    def _register(self) -> None:
        self._post(
            "register_worker",
            {
                "worker_name": self.address,
                "check_heart_beat": True,
                "worker_status": self.status(),
            },
        )
        self._known = True
        logger.info("registered at %s as %s", self.controller, self.address)

    def _post(self, path: str, content: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.controller}/{path}",
            json.dumps(content).encode(),
            self._headers,
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            found = json.loads(response.read() or b"null")
        return found if isinstance(found, dict) else {}

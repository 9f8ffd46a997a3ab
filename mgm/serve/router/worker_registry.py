"""The workers of a controller: their models, heartbeats and load, and which gets a request."""

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from mgm.errors import MGMError
from mgm.serve.http.wire import HEARTBEAT_TIMEOUT

LOTTERY, SHORTEST_QUEUE = "lottery", "shortest_queue"
METHODS = (LOTTERY, SHORTEST_QUEUE)

MAX_WORKERS = 1000
MAX_NAMES, MAX_NAME = 256, 256  # model names of a worker, and characters of one
MIN_SPEED, MAX_SPEED = 1e-6, 1e6  # a published worker's is 1
MAX_QUEUE = 1e6  # requests


def _printable(name: str) -> str:
    if not name.isprintable():
        raise ValueError("a name has control characters or line breaks")
    return name


ModelName = Annotated[
    str, Field(strict=True, min_length=1, max_length=MAX_NAME), AfterValidator(_printable)
]
QueueLength = Annotated[float, Field(strict=True, ge=0, le=MAX_QUEUE, allow_inf_nan=False)]


class WorkerStatus(BaseModel):
    """What a worker says of itself, when it registers and when it is asked.

    Attributes:
        model_names: of the models that chat.
        drawers: of those that generate images.
        speed: relative to other workers.
        queue_length: requests that it has.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    model_names: Annotated[tuple[ModelName, ...], Field(min_length=1, max_length=MAX_NAMES)]
    drawers: Annotated[tuple[ModelName, ...], Field(max_length=MAX_NAMES)] = ()
    speed: Annotated[float, Field(strict=True, ge=MIN_SPEED, le=MAX_SPEED, allow_inf_nan=False)]
    queue_length: QueueLength


@dataclass
class WorkerInfo:
    """A registered worker.

    Attributes:
        address: scheme, host and port.
        status: as it was registered or asked last.
        sends_heartbeats: whether it is removed when none comes.
        last_seen: when it was last heard of, in seconds of `time.monotonic`.
        queue_length: as it was last told, and requests that were dispatched since.
        unhealthy: whether a health check of it is running; others are preferred.
        timed_out: whether it was removed since no heartbeat came; it answers nothing any more.
    """

    address: str
    status: WorkerStatus
    sends_heartbeats: bool
    last_seen: float
    queue_length: float
    unhealthy: bool = False
    timed_out: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of all its models."""
        return (*self.status.model_names, *self.status.drawers)

    @property
    def load(self) -> float:
        """Requests in its queue, relative to its speed."""
        return self.queue_length / self.status.speed


@dataclass
class WorkerRegistry:
    """Registered workers by their addresses.

    Attributes:
        method: `LOTTERY` draws a worker by speed, `SHORTEST_QUEUE` takes the one with least load.
        heartbeat_timeout: seconds without a heartbeat after which a worker is removed.
    """

    method: str = SHORTEST_QUEUE
    heartbeat_timeout: float = HEARTBEAT_TIMEOUT
    workers: dict[str, WorkerInfo] = field(default_factory=dict)

    def register(
        self,
        address: str,
        status: WorkerStatus | Mapping[str, Any],
        sends_heartbeats: bool,
    ) -> WorkerInfo:
        """Add a worker, or update one.

        Args:
            address: see `parse_worker_address`.
            status: what the worker says of itself.
            sends_heartbeats: whether it is removed when none comes.

        Raises:
            MGMError: there are too many workers.
            ValidationError: the status is malformed.
        """
        parsed, now = WorkerStatus.model_validate(status), time.monotonic()
        self.expire()
        worker = self.workers.get(address)
        if worker is None:
            if len(self.workers) >= MAX_WORKERS:
                raise MGMError(f"there are {MAX_WORKERS} workers; no more are registered")
            worker = WorkerInfo(address, parsed, sends_heartbeats, now, parsed.queue_length)
            self.workers[address] = worker
        worker.status, worker.sends_heartbeats = parsed, sends_heartbeats
        worker.last_seen, worker.queue_length = now, parsed.queue_length
        return worker

    def remove(self, address: str) -> WorkerInfo | None:
        """Dispatch nothing more to a worker; what it answers already goes on."""
        return self.workers.pop(address, None)

    def heartbeat(self, address: str, queue_length: float) -> bool:
        """Take a worker's heartbeat; returns whether it is registered."""
        self.expire()
        worker = self.workers.get(address)
        if worker is None:
            return False
        worker.queue_length, worker.last_seen = queue_length, time.monotonic()
        return True

    def expire(self) -> None:
        """Remove workers whose heartbeats do not come."""
        oldest = time.monotonic() - self.heartbeat_timeout
        for worker in list(self.workers.values()):
            if worker.sends_heartbeats and worker.last_seen < oldest:
                worker.timed_out = True
                self.remove(worker.address)

    def current(self) -> list[WorkerInfo]:
        """All workers; a copy, since a heartbeat's thread asks while others register."""
        self.expire()
        return list(self.workers.values())

    @property
    def models(self) -> list[str]:
        """Names of all models that chat."""
        return sorted({name for one in self.current() for name in one.status.model_names})

    @property
    def drawers(self) -> list[str]:
        """Names of all models that generate images."""
        return sorted({name for one in self.current() for name in one.status.drawers})

    def select(self, model: str, exclude: Sequence[str] = ()) -> WorkerInfo | None:
        """A worker for a model, whose queue is then longer by one request, see `done`.

        Args:
            model: its name.
            exclude: addresses of workers that were tried.
        """
        found = [
            worker
            for worker in self.current()
            if model in worker.names and worker.address not in exclude
        ]
        found = [worker for worker in found if not worker.unhealthy] or found
        if not found:
            return None
        if self.method == LOTTERY:
            worker = random.choices(found, [one.status.speed for one in found])[0]
        else:
            worker = min(found, key=lambda one: one.load)
        worker.queue_length += 1
        return worker

    def done(self, worker: WorkerInfo) -> None:
        """A request that was dispatched to a worker has ended."""
        worker.queue_length = max(0, worker.queue_length - 1)

    def status(self) -> dict[str, Any]:
        """The status of all together, as a parent controller takes it from a worker."""
        workers = self.current()
        speed = sum(one.status.speed for one in workers) or 1
        return {
            "model_names": self.models[:MAX_NAMES],
            "speed": min(speed, MAX_SPEED),
            "queue_length": min(sum(one.queue_length for one in workers), MAX_QUEUE),
        } | ({"drawers": self.drawers[:MAX_NAMES]} if self.drawers else {})

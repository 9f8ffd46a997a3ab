"""The workers of a controller: their models, heartbeats and load, and which gets a request."""

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from mgm.errors import MGMError
from mgm.serve.http.wire import HEARTBEAT_TIMEOUT

LOTTERY, SHORTEST_QUEUE = "lottery", "shortest_queue"
METHODS = (LOTTERY, SHORTEST_QUEUE)

MAX_WORKERS = 1000
MAX_NAMES, MAX_NAME = 256, 256  # model names of a worker, and characters of one
MIN_SPEED, MAX_SPEED = 0.01, 100.0  # a published worker's is 1
MAX_QUEUE = 1e6  # requests

MIN_BACKOFF, MAX_BACKOFF = 1.0, 30.0  # seconds in which a worker that failed is chosen last
FAILURE_MEMORY = 60.0  # seconds after which a failure no longer lengthens the next back-off


def _printable(name: str) -> str:
    if not name.isprintable():
        raise PydanticCustomError("model_name", "a name has control characters or line breaks")
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
        sends_heartbeats: whether its health is checked when none comes.
        last_seen: when it was last heard of, in seconds of `time.monotonic`.
        queue_length: as it was last told, and requests that were dispatched since.
        unhealthy: whether a health check of it is running; others are preferred.
        failed_check: whether it was removed since a health check failed.
        failures: requests that failed, the last at most `FAILURE_MEMORY` ago.
        failed_at: when the last of them did, in seconds of `time.monotonic`.
        retry_at: until when other workers are preferred since a request failed; after that, one
            request at a time tries it. None: nothing failed since its last success.
        trying: whether such a request is on its way.
    """

    address: str
    status: WorkerStatus
    sends_heartbeats: bool
    last_seen: float
    queue_length: float
    unhealthy: bool = False
    failed_check: bool = False
    failures: int = 0
    failed_at: float = float("-inf")
    retry_at: float | None = None
    trying: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of all its models."""
        return (*self.status.model_names, *self.status.drawers)

    @property
    def load(self) -> float:
        """Requests in its queue with one more, relative to its speed."""
        return (self.queue_length + 1) / self.status.speed

    def rank(self, now: float) -> int:
        """Workers of the lowest rank are preferred; 0 is that of all that work.

        Args:
            now: in seconds of `time.monotonic`.
        """
        backing_off = self.retry_at is not None and now < self.retry_at
        return self.failures if backing_off else int(self.unhealthy)

    @property
    def backoff(self) -> float:
        """Seconds in which others are preferred after its last failure."""
        return min(MAX_BACKOFF, MIN_BACKOFF * 2 ** min(self.failures - 1, 10))


@dataclass
class WorkerRegistry:
    """Registered workers by their addresses.

    Attributes:
        method: `LOTTERY` draws a worker by speed, `SHORTEST_QUEUE` takes the one with least load.
        heartbeat_timeout: seconds without a heartbeat after which a worker's health is checked.
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
            sends_heartbeats: whether its health is checked when none comes.

        Raises:
            MGMError: there are too many workers.
            ValidationError: the status is malformed.
        """
        parsed, now = WorkerStatus.model_validate(status), time.monotonic()
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

    def heartbeat(
        self, address: str, queue_length: float, status: WorkerStatus | None = None
    ) -> bool:
        """Take a worker's heartbeat; returns whether it is registered.

        Its status, if it comes along, counts from now on: another registration of the same address
        with other models lasts until then.
        """
        worker = self.workers.get(address)
        if worker is None:
            return False
        if status is not None:
            worker.status = status
        worker.queue_length, worker.last_seen = queue_length, time.monotonic()
        return True

    def is_silent(self, worker: WorkerInfo) -> bool:
        """Whether a worker's heartbeats do not come."""
        age = time.monotonic() - worker.last_seen
        return worker.sends_heartbeats and age > self.heartbeat_timeout

    def is_lost(self, worker: WorkerInfo) -> bool:
        """Whether a worker answers nothing any more: no heartbeat, no health check, no return."""
        removed = worker.failed_check and worker.address not in self.workers
        return removed and self.is_silent(worker)

    def current(self) -> list[WorkerInfo]:
        """All workers; a copy, since a heartbeat's thread asks while others register."""
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

        Those whose last request failed are taken where there are no others, and from time to time
        for one request, which shows whether they work again.

        Args:
            model: its name.
            exclude: addresses of workers that were tried.
        """
        found = [
            worker
            for worker in self.current()
            if model in worker.names and worker.address not in exclude
        ]
        if not found:
            return None
        now = time.monotonic()
        best = min(worker.rank(now) for worker in found)
        found = [worker for worker in found if worker.rank(now) == best]
        if self.method == LOTTERY:
            worker = random.choices(found, [one.status.speed for one in found])[0]
        else:
            worker = min(found, key=lambda one: one.load)
        worker.queue_length += 1
        if worker.retry_at is not None and now >= worker.retry_at:
            worker.trying, worker.retry_at = True, now + worker.backoff
        return worker

    def done(self, worker: WorkerInfo) -> None:
        """A request that was dispatched to a worker has ended."""
        worker.queue_length = max(0, worker.queue_length - 1)

    def succeeded(self, worker: WorkerInfo) -> None:
        """A worker answered a request; one that failed before is as good as others again."""
        if self._counts(worker):
            worker.retry_at, worker.trying = None, False

    def failed(self, worker: WorkerInfo) -> None:
        """A worker did not answer a request: others are preferred for a while.

        It takes twice as long as after the last failure. Requests that fail at the same time are
        one failure, as when a worker is started anew.
        """
        if self._counts(worker):
            now = time.monotonic()
            recent = now - worker.failed_at < FAILURE_MEMORY
            worker.failures = worker.failures + 1 if recent else 1
            worker.failed_at, worker.trying = now, False
            worker.retry_at = now + worker.backoff

    def _counts(self, worker: WorkerInfo) -> bool:
        """Whether a request's end says something new: it began after the last failure, mostly."""
        return worker.retry_at is None or worker.trying or time.monotonic() >= worker.retry_at

    def status(self) -> dict[str, Any]:
        """The status of all together, as a parent controller takes it from a worker."""
        workers = self.current()
        speed = sum(one.status.speed for one in workers) or 1
        return {
            "model_names": self.models[:MAX_NAMES],
            "speed": min(speed, MAX_SPEED),
            "queue_length": min(sum(one.queue_length for one in workers), MAX_QUEUE),
        } | ({"drawers": self.drawers[:MAX_NAMES]} if self.drawers else {})

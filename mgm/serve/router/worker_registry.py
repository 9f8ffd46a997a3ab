"""Worker registry of a controller: models, heartbeat timeout, load balancing, back-off."""

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
DISPATCH_METHODS = (LOTTERY, SHORTEST_QUEUE)

MAX_WORKERS = 1000
MAX_NAMES, MAX_NAME_LENGTH = 256, 256  # model names of a worker, characters of one
MIN_SPEED, MAX_SPEED = 0.01, 100.0  # a published worker's is 1
MAX_QUEUE_LENGTH = 1e6

MIN_BACKOFF, MAX_BACKOFF = 1.0, 30.0  # seconds in which other workers are preferred
FAILURE_MEMORY = 60.0  # seconds after which the back-off starts at its minimum again


def _printable(name: str) -> str:
    if not name.isprintable():
        raise PydanticCustomError("model_name", "model names must be printable")
    return name


ModelName = Annotated[
    str, Field(strict=True, min_length=1, max_length=MAX_NAME_LENGTH), AfterValidator(_printable)
]
QueueLength = Annotated[float, Field(strict=True, ge=0, le=MAX_QUEUE_LENGTH, allow_inf_nan=False)]


class WorkerStatus(BaseModel):
    """Status of a worker, sent at registration, with heartbeats, and on request.

    Attributes:
        model_names: names of the language models.
        image_models: names of the image generation models; `drawers` in JSON.
        speed: relative to other workers.
        queue_length: running and waiting requests.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    model_names: Annotated[tuple[ModelName, ...], Field(min_length=1, max_length=MAX_NAMES)]
    image_models: Annotated[
        tuple[ModelName, ...], Field(max_length=MAX_NAMES, alias="drawers")
    ] = ()
    speed: Annotated[float, Field(strict=True, ge=MIN_SPEED, le=MAX_SPEED, allow_inf_nan=False)]
    queue_length: QueueLength


@dataclass
class WorkerInfo:
    """A registered worker.

    Attributes:
        address: scheme, host and port.
        status: the latest one.
        sends_heartbeats: whether a missing heartbeat triggers a health check.
        last_seen: time of its last heartbeat or status, of `time.monotonic`.
        queue_length: last reported queue length plus requests dispatched since.
        unhealthy: whether a health check is running; other workers are preferred.
        failed_check: whether it was removed after a failed health check.
        failures: consecutive failed requests, less than `FAILURE_MEMORY` apart.
        failed_at: time of the last failure, of `time.monotonic`.
        retry_at: end of the back-off; after it, one request at a time probes the worker. None: no
            failure since its last success.
        probing: whether such a request is running.
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
    probing: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all its models."""
        return (*self.status.model_names, *self.status.image_models)

    @property
    def load(self) -> float:
        """Queue length with one more request, divided by its speed."""
        return (self.queue_length + 1) / self.status.speed

    def rank(self, now: float) -> int:
        """Rank for load balancing: the lowest is preferred; healthy workers have rank 0.

        Args:
            now: current time of `time.monotonic`.
        """
        backing_off = self.retry_at is not None and now < self.retry_at
        return self.failures if backing_off else int(self.unhealthy)

    @property
    def backoff(self) -> float:
        """Seconds of exponential back-off after its last failure."""
        return min(MAX_BACKOFF, MIN_BACKOFF * 2 ** min(self.failures - 1, 10))


@dataclass
class WorkerRegistry:
    """Registered workers, and the load balancing among them.

    Attributes:
        method: load-balancing policy: `LOTTERY` is random, weighted by speed; `SHORTEST_QUEUE`
            selects the worker with the lowest load.
        heartbeat_timeout: seconds without a heartbeat before a health check.
        workers: registered workers by address.
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
            status: status of the worker.
            sends_heartbeats: whether a missing heartbeat triggers a health check.

        Raises:
            MGMError: there are too many workers.
            ValidationError: the status is malformed.
        """
        parsed, now = WorkerStatus.model_validate(status), time.monotonic()
        worker = self.workers.get(address)
        if worker is None:
            if len(self.workers) >= MAX_WORKERS:
                raise MGMError(f"{MAX_WORKERS} workers are registered, which is the maximum")
            worker = WorkerInfo(address, parsed, sends_heartbeats, now, parsed.queue_length)
            self.workers[address] = worker
        worker.status, worker.sends_heartbeats = parsed, sends_heartbeats
        worker.last_seen, worker.queue_length = now, parsed.queue_length
        return worker

    def remove(self, address: str) -> WorkerInfo | None:
        """Unregister a worker; requests that are running on it continue."""
        return self.workers.pop(address, None)

    def heartbeat(
        self, address: str, queue_length: float, status: WorkerStatus | None = None
    ) -> bool:
        """Record a worker's heartbeat; returns whether the worker is registered.

        A status that comes with it replaces the registered one, should another program have
        registered the same address.
        """
        worker = self.workers.get(address)
        if worker is None:
            return False
        if status is not None:
            worker.status = status
        worker.queue_length, worker.last_seen = queue_length, time.monotonic()
        return True

    def is_heartbeat_overdue(self, worker: WorkerInfo) -> bool:
        """Whether a worker's heartbeat is overdue."""
        age = time.monotonic() - worker.last_seen
        return worker.sends_heartbeats and age > self.heartbeat_timeout

    def is_lost(self, worker: WorkerInfo) -> bool:
        """Whether a worker is gone: heartbeat overdue, health check failed, not re-registered."""
        removed = worker.failed_check and worker.address not in self.workers
        return removed and self.is_heartbeat_overdue(worker)

    def current(self) -> list[WorkerInfo]:
        """All workers; a copy, since the heartbeat thread reads while workers register."""
        return list(self.workers.values())

    @property
    def models(self) -> list[str]:
        """Names of all language models."""
        return sorted({name for one in self.current() for name in one.status.model_names})

    @property
    def image_models(self) -> list[str]:
        """Names of all image generation models."""
        return sorted({name for one in self.current() for name in one.status.image_models})

    def select(self, model: str, exclude: Sequence[str] = ()) -> WorkerInfo | None:
        """Select a worker by load-balancing policy; None: no worker has the model.

        Its queue length is incremented until `finish_request`. A worker whose last request failed
        is selected if there is no other, or, after its back-off, to probe it with one request.

        Args:
            model: name of the model.
            exclude: addresses of workers that were tried already.
        """
        candidates = [
            worker
            for worker in self.current()
            if model in worker.names and worker.address not in exclude
        ]
        if not candidates:
            return None
        now = time.monotonic()
        best = min(worker.rank(now) for worker in candidates)
        candidates = [worker for worker in candidates if worker.rank(now) == best]
        if self.method == LOTTERY:
            worker = random.choices(candidates, [one.status.speed for one in candidates])[0]
        else:
            worker = min(candidates, key=lambda one: one.load)
        worker.queue_length += 1
        if worker.retry_at is not None and now >= worker.retry_at:
            worker.probing, worker.retry_at = True, now + worker.backoff
        return worker

    def finish_request(self, worker: WorkerInfo) -> None:
        """Decrement the queue length of a worker, whose request has ended."""
        worker.queue_length = max(0, worker.queue_length - 1)

    def record_success(self, worker: WorkerInfo) -> None:
        """End the back-off of a worker that served a request."""
        if self._updates_backoff(worker):
            worker.retry_at, worker.probing = None, False

    def record_failure(self, worker: WorkerInfo) -> None:
        """Start the back-off of a worker that failed a request, twice as long as the last one.

        Requests that fail at the same time, as when a worker restarts, are one failure.
        """
        if self._updates_backoff(worker):
            now = time.monotonic()
            recent = now - worker.failed_at < FAILURE_MEMORY
            worker.failures = worker.failures + 1 if recent else 1
            worker.failed_at, worker.probing = now, False
            worker.retry_at = now + worker.backoff

    def _updates_backoff(self, worker: WorkerInfo) -> bool:
        """Whether an outcome changes the back-off: the request likely began after the failure."""
        return worker.retry_at is None or worker.probing or time.monotonic() >= worker.retry_at

    def status(self) -> dict[str, Any]:
        """The status of all workers together, for a parent controller."""
        workers = self.current()
        speed = sum(one.status.speed for one in workers) or 1
        return {
            "model_names": self.models[:MAX_NAMES],
            "speed": min(speed, MAX_SPEED),
            "queue_length": min(sum(one.queue_length for one in workers), MAX_QUEUE_LENGTH),
        } | ({"drawers": self.image_models[:MAX_NAMES]} if self.image_models else {})

"""Relays requests to workers: load balancing, failover, liveness of silent workers."""

import asyncio
import http.client
import logging
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from prometheus_client import Counter

from mgm.serve.limits.bounded_response import BoundedResponse
from mgm.serve.openai.errors import BadRequestError, model_not_found
from mgm.serve.router.health_check import HealthChecker
from mgm.serve.router.worker_client import (
    WorkerClient,
    WorkerLostError,
    WorkerResponseError,
    WorkerUnreachableError,
)
from mgm.serve.router.worker_registry import WorkerInfo, WorkerRegistry

logger = logging.getLogger("mgm.serve")

LIVENESS_INTERVAL = 1.0  # seconds between two checks of the heartbeats of a silent worker
HOPS_HEADER = "X-MGM-Hops"  # request header: the controllers that relayed it
MAX_HOPS = 4
FAILURE_STATUSES = (500, 502, 504, 508)  # HTTP statuses that start a worker's back-off
BUSY_STATUSES = (429, 503)  # HTTP statuses of a worker that is full or draining
FORWARDED_HEADERS = ("content-type", "x-request-id")  # request headers sent to the worker
MAX_HEADER_LENGTH = 1000  # characters of a forwarded header


@dataclass(frozen=True)
class RelayedRequest:
    """A request to be relayed.

    Attributes:
        model: name of the model.
        path: path of the endpoint.
        body: the client's, unchanged.
        headers: headers sent to the worker.
    """

    model: str
    path: str
    body: bytes
    headers: dict[str, str]

    @classmethod
    async def of(cls, request: Request, model: str) -> "RelayedRequest":
        """Build the relayed request from a client's, without its API key.

        Raises:
            BadRequestError: too many controllers relayed it: one may be its own worker.
        """
        headers = safe_headers(request.headers, FORWARDED_HEADERS)
        headers[HOPS_HEADER] = str(_hops(request) + 1)
        # Not request.url, which contains the client's Host header.
        return cls(model, request.scope["path"], await request.body(), headers)


class Relay:
    """Relays requests to workers, with failover from a worker that cannot be reached.

    Args:
        registry: registry of the workers.
        client: HTTP client for workers.
        health: checks workers that fail.
        outcomes: counts requests by outcome.
    """

    def __init__(
        self,
        registry: WorkerRegistry,
        client: WorkerClient,
        health: HealthChecker,
        outcomes: Counter,
    ) -> None:
        self.registry, self.client, self.health = registry, client, health
        self.outcomes = outcomes

    @asynccontextmanager
    async def send(
        self, request: RelayedRequest
    ) -> AsyncGenerator[tuple[WorkerInfo, BoundedResponse]]:
        """Send a request; yields the worker that accepted it and its response, closed on exit.

        Raises:
            BadRequestError: no worker has the model, or none that has it can be reached.
            WorkerLostError: the worker disconnected after it got the request.
            WorkerResponseError: the worker's response has a status that workers do not send.
        """
        tried: list[str] = []
        while True:
            worker = self.registry.select(request.model, tried)
            if worker is None:
                raise self._no_worker(request.model, bool(tried))
            tried.append(worker.address)
            try:
                call = self.client.post(worker.address, request.path, request.body, request.headers)
                response = await self._while_alive(worker, call)
                try:
                    _check_status(response.status)
                    yield worker, response
                finally:
                    response.close()
                return
            except WorkerUnreachableError as error:
                logger.warning("%s", error)
                self.registry.record_failure(worker)
                self.health.check(worker)
            except WorkerLostError as error:
                self.record_lost(worker, error)
                raise
            except WorkerResponseError as error:
                logger.warning("a request at %s failed: %s", worker.address, error)
                self.registry.record_failure(worker)
                raise
            finally:
                self.registry.finish_request(worker)

    async def read(self, worker: WorkerInfo, response: BoundedResponse) -> bytes:
        """Read the next bytes of a worker's response; empty: it is complete.

        Raises:
            WorkerLostError: the worker disconnected, or its heartbeats stopped.
        """
        while True:
            try:
                async with asyncio.timeout(LIVENESS_INTERVAL):
                    return await self.client.read(response)
            except TimeoutError:
                self._check_alive(worker)

    def record_lost(self, worker: WorkerInfo, error: WorkerLostError) -> None:
        """Record that a worker disconnected: it stays registered unless its health check fails."""
        logger.warning("a request at %s failed: %s", worker.address, error)
        self.registry.record_failure(worker)
        self.health.check(worker)

    def record_response(self, worker: WorkerInfo, status: int) -> None:
        """Record that a worker's response is complete, whatever its status."""
        self.outcomes.labels("ok").inc()
        if status in FAILURE_STATUSES:
            self.registry.record_failure(worker)
        elif status not in BUSY_STATUSES:
            self.registry.record_success(worker)

    async def _while_alive(
        self, worker: WorkerInfo, call: Coroutine[Any, Any, BoundedResponse]
    ) -> BoundedResponse:
        task = asyncio.create_task(call)
        try:
            while not (await asyncio.wait([task], timeout=LIVENESS_INTERVAL))[0]:
                self._check_alive(worker)
            return task.result()
        finally:
            task.cancel()

    def _check_alive(self, worker: WorkerInfo) -> None:
        if self.registry.is_lost(worker):
            raise WorkerLostError("its heartbeats stopped, and its health check failed")

    def _no_worker(self, model: str, tried: bool) -> BadRequestError:
        self.outcomes.labels("no worker").inc()
        if tried:
            text = f"no worker of the model {model!r:.100} can be reached; retry"
            return BadRequestError(text, "model", 503, "worker_unavailable")
        return self.model_not_found(model)

    def model_not_found(self, model: str) -> BadRequestError:
        """The error of a model that no worker has."""
        return model_not_found(model, [*self.registry.models, *self.registry.image_models])


def _hops(request: Request) -> int:
    """The number of controllers that relayed a request."""
    value = request.headers.get(HOPS_HEADER, "")
    hops = int(value) if value.isascii() and value.isdigit() and len(value) < 10 else 0
    if hops >= MAX_HOPS:
        raise BadRequestError(
            f"{hops} controllers relayed the request, which is the maximum; is one its own worker? "
            "check the workers' addresses",
            status=508,
            code="controller_loop",
        )
    return hops


def _check_status(status: int) -> None:
    """Raise an error for a status that workers do not send, such as a redirect."""
    if status in (401, 403):
        raise WorkerResponseError(
            "the worker refuses the controller's requests; start both with the same --worker-key"
        )
    if status != 200 and not (status >= 400 and status in http.client.responses):
        raise WorkerResponseError(f"the worker answered with status {status}")


def safe_headers(headers: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """The named headers whose values are safe to forward: short and printable ASCII."""
    values = {name: headers.get(name) for name in names}
    return {
        name: value
        for name, value in values.items()
        if value and value.isascii() and value.isprintable() and len(value) <= MAX_HEADER_LENGTH
    }

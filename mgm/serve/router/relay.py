"""Sends requests to workers: dispatch, failover before a worker has it, liveness while it waits."""

import asyncio
import http.client
import logging
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from fastapi import Request
from prometheus_client import Counter

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

LIVENESS_INTERVAL = 1.0  # seconds between two looks at the heartbeats of a worker that is silent
HOPS_HEADER = "X-MGM-Hops"  # of a request: how many controllers passed it on
MAX_HOPS = 4
FAULTS = (500, 502, 504, 508)  # statuses of a worker that answers and does not work
BUSY = (429, 503)  # of one that is full or about to end
PASSED_ON = ("content-type", "x-request-id")  # headers of a request
MAX_HEADER = 1000  # characters


@dataclass(frozen=True)
class RelayedRequest:
    """A request as a worker gets it.

    Attributes:
        model: its name.
        path: of the worker's endpoint.
        body: as it came.
        headers: that the worker needs.
    """

    model: str
    path: str
    body: bytes
    headers: dict[str, str]

    @classmethod
    async def of(cls, request: Request, model: str) -> "RelayedRequest":
        """A client's request; its keys stay here.

        Raises:
            BadRequestError: it came through too many controllers, as where one is its own worker.
        """
        headers = safe_headers(request.headers, PASSED_ON)
        headers[HOPS_HEADER] = str(_hops(request) + 1)
        # Not request.url: a part of it is the client's Host header.
        return cls(model, request.scope["path"], await request.body(), headers)


class Relay:
    """Sends requests to workers; one that cannot be reached is passed over for another.

    Args:
        registry: of the workers.
        client: to reach them.
        health: checks those that fail.
        outcomes: counts requests by how they ended.
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
    async def sent(
        self, request: RelayedRequest
    ) -> AsyncGenerator[tuple[WorkerInfo, aiohttp.ClientResponse]]:
        """The worker that took a request, and its response, which is closed at the end.

        Raises:
            BadRequestError: no worker has the model, or none that has it can be reached.
            WorkerLostError: the worker took the request and broke off.
            WorkerResponseError: its response is none of a worker.
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
                self.registry.failed(worker)
                self.health.check(worker)
            except WorkerLostError as error:
                self.report(worker, error)
                raise
            except WorkerResponseError as error:
                logger.warning("a request at %s failed: %s", worker.address, error)
                self.registry.failed(worker)
                raise
            finally:
                self.registry.done(worker)

    async def read(self, worker: WorkerInfo, response: aiohttp.ClientResponse) -> bytes:
        """The next bytes of a worker's response; none: it is complete.

        Raises:
            WorkerLostError: the worker broke off, or its heartbeats did.
        """
        while True:
            try:
                async with asyncio.timeout(LIVENESS_INTERVAL):
                    return await self.client.read(response)
            except TimeoutError:
                self._check_alive(worker)

    def report(self, worker: WorkerInfo, error: WorkerLostError) -> None:
        """Note that a worker broke off: it stays registered unless its health check fails."""
        logger.warning("a request at %s failed: %s", worker.address, error)
        self.registry.failed(worker)
        self.health.check(worker)

    def answered(self, worker: WorkerInfo, status: int) -> None:
        """Note that a worker's answer is complete, whatever its status of HTTP."""
        self.outcomes.labels("ok").inc()
        if status in FAULTS:
            self.registry.failed(worker)
        elif status not in BUSY:
            self.registry.succeeded(worker)

    async def _while_alive(
        self, worker: WorkerInfo, call: Coroutine[Any, Any, aiohttp.ClientResponse]
    ) -> aiohttp.ClientResponse:
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
        return model_not_found(model, [*self.registry.models, *self.registry.drawers])


def _hops(request: Request) -> int:
    """How many controllers a request came through."""
    value = request.headers.get(HOPS_HEADER, "")
    hops = int(value) if value.isascii() and value.isdigit() and len(value) < 10 else 0
    if hops >= MAX_HOPS:
        raise BadRequestError(
            f"the request went through {hops} controllers, the limit; is one its own worker? "
            "check the addresses of the workers",
            status=508,
            code="controller_loop",
        )
    return hops


def _check_status(status: int) -> None:
    """Refuse what no worker answers, redirects among it."""
    if status in (401, 403):
        raise WorkerResponseError(
            "the worker refuses the controller's requests; start both with the same --worker-key"
        )
    if status != 200 and not (status >= 400 and status in http.client.responses):
        raise WorkerResponseError(f"the worker answered with status {status}")


def safe_headers(headers: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """Those of some headers that can be sent on: others sent them, and may have sent anything."""
    found = {name: headers.get(name) for name in names}
    return {
        name: value
        for name, value in found.items()
        if value and value.isascii() and value.isprintable() and len(value) <= MAX_HEADER
    }

"""Health checks of workers that failed or whose heartbeat is overdue; status of all workers."""

import asyncio
import logging
import time

from mgm.errors import MGMError
from mgm.serve.router.worker_client import WorkerClient
from mgm.serve.router.worker_registry import WorkerInfo, WorkerRegistry

logger = logging.getLogger("mgm.serve")

ATTEMPTS, RETRY_INTERVAL = 3, 1.0  # requests of a health check; seconds between them
REFRESH_INTERVAL = 1.0  # minimum seconds between two refreshes
REFRESH_TIMEOUT = 3.0  # seconds that a client waits for a refresh, which then still completes
MAX_STATUS_REQUESTS = 64  # concurrent requests for the status of workers
WATCH_INTERVAL = 1.0  # seconds between two checks of all heartbeats


class HealthChecker:
    """Requests the status of workers; removes a worker that fails several times in a row.

    One broken connection does not remove a worker, since the request may have caused it. Nor does
    an overdue heartbeat, which may be lost: a request for the status has to fail, too.

    Args:
        registry: registry of the workers.
        client: HTTP client for workers.
    """

    def __init__(self, registry: WorkerRegistry, client: WorkerClient) -> None:
        self.registry, self.client = registry, client
        self._checks: dict[str, asyncio.Task[None]] = {}
        self._refresh: asyncio.Task[None] | None = None
        self._last_refresh = float("-inf")
        self._limit = asyncio.Semaphore(MAX_STATUS_REQUESTS)

    def check(self, worker: WorkerInfo) -> None:
        """Start a health check, unless one of this worker is running."""
        address = worker.address
        if address not in self._checks and self.registry.workers.get(address) is worker:
            task = asyncio.create_task(self._check(worker))
            self._checks[address] = task
            task.add_done_callback(lambda _: self._checks.pop(address, None))

    async def watch(self) -> None:
        """Check workers whose heartbeat is overdue, until cancelled."""
        while True:
            for worker in self.registry.current():
                if self.registry.is_heartbeat_overdue(worker):
                    self.check(worker)
            await asyncio.sleep(WATCH_INTERVAL)

    async def refresh(self) -> None:
        """Update the status of all workers; at most one refresh at a time and per interval."""
        if self._refresh is None or (
            self._refresh.done() and time.monotonic() > self._last_refresh + REFRESH_INTERVAL
        ):
            self._refresh = asyncio.create_task(self._refresh_all())
        await asyncio.wait([self._refresh], timeout=REFRESH_TIMEOUT)

    async def close(self) -> None:
        """Cancel all checks."""
        tasks = [*self._checks.values(), *filter(None, [self._refresh])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _refresh_all(self) -> None:
        workers = self.registry.current()
        problems = await asyncio.gather(*(self._update(worker) for worker in workers))
        self._last_refresh = time.monotonic()
        for worker, problem in zip(workers, problems, strict=True):
            if problem is not None:
                self.check(worker)

    async def _check(self, worker: WorkerInfo) -> None:
        worker.unhealthy = True
        try:
            for attempt in range(ATTEMPTS):
                if attempt:
                    await asyncio.sleep(RETRY_INTERVAL)
                problem = await self._update(worker)
                if problem is None:
                    return
                if self.registry.is_heartbeat_overdue(worker):
                    problem = f"no heartbeat for {self.registry.heartbeat_timeout:g} s; {problem}"
                    break
            if self.registry.workers.get(worker.address) is worker:
                logger.warning("health check failed, worker removed: %s", problem)
                worker.failed_check = True
                self.registry.remove(worker.address)
        finally:
            worker.unhealthy = False

    async def _update(self, worker: WorkerInfo) -> MGMError | None:
        """Update a worker's status; returns the error, if any."""
        address = worker.address
        try:
            async with self._limit:
                status = await self.client.status(address)
            if self.registry.workers.get(address) is worker:
                self.registry.register(address, status, worker.sends_heartbeats)
        except MGMError as error:
            return error
        return None

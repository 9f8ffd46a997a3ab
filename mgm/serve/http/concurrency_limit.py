"""Concurrency limit and request queue: slots for running requests, HTTP 429 when it is full."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from mgm.errors import MGMError


class QueueFullError(MGMError):
    """The request queue is full, or the server is shutting down (HTTP 429)."""


class ConcurrencyLimiter:
    """Limits running requests to a number of slots, and waiting ones to the length of a queue.

    Args:
        limit: slots, the maximum of running requests.
        max_queue: the maximum of waiting requests.

    Attributes:
        running: requests with a slot.
        waiting: requests in the queue.
        closed: whether new requests are refused, because the server is shutting down.
    """

    def __init__(self, limit: int, max_queue: int) -> None:
        self.limit, self.max_queue = limit, max_queue
        self.running = 0
        self.waiting = 0
        self.closed = False
        self._semaphore = anyio.Semaphore(limit)

    @property
    def length(self) -> int:
        """Running and waiting requests: `queue_length` in the published protocol."""
        return self.running + self.waiting

    @asynccontextmanager
    async def queue(self) -> AsyncGenerator["Slot"]:
        """Join the queue; yields a slot, to be acquired, which is released at the end.

        Raises:
            QueueFullError: the queue is full, or the server is shutting down.
        """
        if self.closed:
            raise QueueFullError("this server is shutting down; use another one")
        if self.length >= self.limit + self.max_queue:
            raise QueueFullError(
                f"{self.running} requests are running and {self.waiting} are waiting; "
                "try again soon"
            )
        slot = Slot(self)
        try:
            yield slot
        finally:
            slot.release()


class Slot:
    """Slot of one request in a `ConcurrencyLimiter`: waiting, then running, then released."""

    def __init__(self, limiter: ConcurrencyLimiter) -> None:
        self._limiter = limiter
        self._state = "waiting"
        self._sequences = 1
        limiter.waiting += 1

    async def acquire(self, sequences: int = 1) -> None:
        """Wait in the queue until fewer than `limit` requests are running.

        Args:
            sequences: generated for the request, see `sequence_finished`.
        """
        await self._limiter._semaphore.acquire()
        self._limiter.waiting -= 1
        self._limiter.running += 1
        self._state, self._sequences = "running", sequences

    def sequence_finished(self) -> None:
        """Count a finished sequence; the last one releases the slot.

        So a client that reads slowly, or not at all, does not block the slot.
        """
        self._sequences -= 1
        if self._sequences == 0:
            self.release()

    def release(self) -> None:
        """Release the slot for another request; no effect if it is released already."""
        if self._state == "running":
            self._limiter.running -= 1
            self._limiter._semaphore.release()
        elif self._state == "waiting":
            self._limiter.waiting -= 1
        self._state = "released"

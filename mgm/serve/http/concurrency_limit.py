"""Limits how many requests a server answers at once, and how many may wait for that."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from mgm.errors import MGMError


class QueueFullError(MGMError):
    """The request queue is full, or the server is shutting down (HTTP 429)."""


class ConcurrencyLimiter:
    """Hands out slots to requests; those without one wait in a queue of limited length.

    Args:
        limit: max requests that have a slot.
        max_queue: max requests that wait for one.

    Attributes:
        running: requests that have a slot.
        waiting: requests that do not have one yet.
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
        """Requests that run or wait: the `queue_length` of the published protocol."""
        return self.running + self.waiting

    @asynccontextmanager
    async def queue(self) -> AsyncGenerator["Slot"]:
        """Wait in the queue, for as long as the caller likes: until it acquires its slot.

        Raises:
            QueueFullError: too many requests wait, or the server is shutting down.
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
    """One request's part of a `ConcurrencyLimiter`: it waits, then runs, then is released."""

    def __init__(self, limiter: ConcurrencyLimiter) -> None:
        self._limiter = limiter
        self._state = "waiting"
        self._sequences = 1
        limiter.waiting += 1

    async def acquire(self, sequences: int = 1) -> None:
        """Wait until fewer than `limit` requests run; from then on this one runs.

        Args:
            sequences: that are generated for the request, see `sequence_finished`.
        """
        await self._limiter._semaphore.acquire()
        self._limiter.waiting -= 1
        self._limiter.running += 1
        self._state, self._sequences = "running", sequences

    def sequence_finished(self) -> None:
        """Count a sequence that is complete; the slot is released with the last one.

        So a client that reads slowly, or no more, does not keep the slot from others.
        """
        self._sequences -= 1
        if self._sequences == 0:
            self.release()

    def release(self) -> None:
        """Let another request run; does nothing where that has happened."""
        if self._state == "running":
            self._limiter.running -= 1
            self._limiter._semaphore.release()
        elif self._state == "waiting":
            self._limiter.waiting -= 1
        self._state = "released"

"""Who may come in: a limit of answers at once, and a queue that is not endless."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from mgm.errors import MGMError


class FullError(MGMError):
    """So many wait that one more would wait too long."""


class Admission:
    """Lets some in, some wait, and turns the others away.

    Args:
        limit: answers that are written at once.
        queue: requests that wait for their turn, at most.

    Attributes:
        running: answers that are being written.
        waiting: requests that wait.
        closed: whether nobody comes in any more, because the program ends.
    """

    def __init__(self, limit: int, queue: int) -> None:
        self.limit, self.queue = limit, queue
        self.running = 0
        self.waiting = 0
        self.closed = False
        self._places = anyio.Semaphore(limit)

    @property
    def length(self) -> int:
        """All that are here, as published workers report it."""
        return self.running + self.waiting

    @asynccontextmanager
    async def place(self) -> AsyncGenerator[None]:
        """A place for one answer.

        Raises:
            FullError: too many wait, or the program ends.
        """
        if self.closed:
            raise FullError("this server is shutting down; ask another one")
        if self.waiting >= self.queue and self.running >= self.limit:
            raise FullError(
                f"{self.running} answers are being written and {self.waiting} wait; try again soon"
            )
        self.waiting += 1
        try:
            await self._places.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self._places.release()

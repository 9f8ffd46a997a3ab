"""Limits the memory of request bodies in progress; the largest incomplete body is refused first."""

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

import anyio
from starlette.types import Message

MIN_COUNTED_BYTES = 256 * 2**10  # smaller bodies do not count


class BodyMemoryFullError(Exception):
    """Request bodies exceed the memory limit (HTTP 503)."""


class BodyMemory:
    """Limits the bytes of all request bodies; above it the largest incomplete one is refused.

    So slow uploads cannot block other clients: the one that holds most memory is refused, of equal
    ones the oldest. Complete bodies are kept until their request is finished.

    Args:
        limit: maximum bytes of all counted bodies.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._bodies: list[Body] = []  # oldest first

    @contextmanager
    def body(self) -> Generator["Body"]:
        """Account for the body of a request until it is finished."""
        body = Body(self)
        self._bodies.append(body)
        try:
            yield body
        finally:
            self._bodies.remove(body)

    @property
    def bytes_held(self) -> int:
        """Total of all counted bodies."""
        return sum(body.counted for body in self._bodies)

    def enforce_limit(self) -> None:
        """Refuse incomplete bodies, largest first, until the others are within the limit."""
        excess = self.bytes_held - self.limit
        while excess > 0:
            incomplete = [one for one in self._bodies if one.counted and not one.complete]
            if not incomplete:
                return
            largest = max(incomplete, key=lambda one: one.size)
            excess -= largest.counted
            largest.refuse()


class Body:
    """The body of one request.

    Attributes:
        size: bytes received.
        complete: whether all of it was received.
    """

    def __init__(self, memory: BodyMemory) -> None:
        self.size = 0
        self.complete = False
        self._refused = False
        self._memory = memory
        self._scope: anyio.CancelScope | None = None  # of the pending `receive`

    @property
    def counted(self) -> int:
        """Bytes that count: 0 for small and for refused bodies."""
        return 0 if self._refused or self.size <= MIN_COUNTED_BYTES else self.size

    def refuse(self) -> None:
        """Make the next or pending `receive` raise an error."""
        self._refused = True
        if self._scope is not None:
            self._scope.cancel()

    async def receive(self, receive: Callable[[], Awaitable[Message]]) -> Message:
        """Receive the next ASGI message of a request.

        Args:
            receive: ASGI's `receive`.

        Raises:
            BodyMemoryFullError: the body is refused.
        """
        if self.complete:  # only a disconnect can follow
            return await receive()
        message: Message = {}
        with anyio.CancelScope() as self._scope:
            if not self._refused:
                message = await receive()
        self._scope = None
        self.size += len(message.get("body", b""))
        self._memory.enforce_limit()
        if self._refused:
            raise BodyMemoryFullError("the memory for request bodies is in use; retry later")
        self.complete = not message.get("more_body", False)
        return message

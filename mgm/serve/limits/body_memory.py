"""Memory for the bodies of requests that are not answered yet, and whose body has to make room."""

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

import anyio
from starlette.types import Message

FREE_BYTES = 256 * 2**10  # of each body; one of that size or less does not count


class BodyMemoryFullError(Exception):
    """The bodies of all requests together take too much memory."""


class BodyMemory:
    """Bounds the bytes of all bodies; where there are too many, the largest unfinished body goes.

    So nobody is kept out by bodies that are sent and never end: whoever holds most of the memory is
    refused, which is the newcomer only if it is the largest itself. Of equal ones the oldest is
    refused. Bodies that are complete are kept until their requests are answered.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._bodies: list[Body] = []  # the oldest first

    @contextmanager
    def body(self) -> Generator["Body"]:
        """The body of a request, until it is answered."""
        body = Body(self)
        self._bodies.append(body)
        try:
            yield body
        finally:
            self._bodies.remove(body)

    @property
    def bytes_held(self) -> int:
        """Of all bodies that count."""
        return sum(body.counted for body in self._bodies)

    def make_room(self) -> None:
        """Refuse unfinished bodies until the others fit."""
        excess = self.bytes_held - self.limit
        while excess > 0:
            unfinished = [one for one in self._bodies if one.counted and not one.complete]
            if not unfinished:
                return
            largest = max(unfinished, key=lambda one: one.size)
            excess -= largest.counted
            largest.refuse()


class Body:
    """The body of one request.

    Attributes:
        size: bytes that came.
        complete: whether there are no more.
    """

    def __init__(self, memory: BodyMemory) -> None:
        self.size = 0
        self.complete = False
        self._refused = False
        self._memory = memory
        self._scope: anyio.CancelScope | None = None  # of the call that waits for more

    @property
    def counted(self) -> int:
        """Bytes that count: none of a small body, and none of one that is refused."""
        return 0 if self._refused or self.size <= FREE_BYTES else self.size

    def refuse(self) -> None:
        """End the request, as soon as it waits for more."""
        self._refused = True
        if self._scope is not None:
            self._scope.cancel()

    async def receive(self, receive: Callable[[], Awaitable[Message]]) -> Message:
        """The next message of a request.

        Args:
            receive: of ASGI.

        Raises:
            BodyMemoryFullError: the body is refused.
        """
        if self.complete:  # the client leaves, or stays: nothing that is in the way of others
            return await receive()
        message: Message = {}
        with anyio.CancelScope() as self._scope:
            if not self._refused:
                message = await receive()
        self._scope = None
        self.size += len(message.get("body", b""))
        self._memory.make_room()
        if self._refused:
            raise BodyMemoryFullError("other requests take all memory for bodies; try again soon")
        self.complete = not message.get("more_body", False)
        return message

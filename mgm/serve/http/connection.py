"""HTTP/1.1 connections with limits that hold before a request reaches the application.

uvicorn's h11 parser bounds the bytes of a request's head; this bounds the time that a head and a
body may take, and the number of connections.
"""

import asyncio
import time
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_HEAD_BYTES = 32 * 2**10  # request line and header fields
HEAD_TIMEOUT = 10.0  # seconds from a connection, or a further request's first byte, to its head
BODY_TIMEOUT = 120.0  # seconds from a request's head to the end of its body
READ_TIMEOUT = 120.0  # seconds in which a client reads nothing of a response that is full
MAX_PIPELINED_BYTES = 64 * 2**10  # of further requests that come before a response is complete
# Longer than client pools keep idle connections (httpx 5 s, aiohttp 15 s, nginx and AWS load
# balancers 60 s), so that the client closes first and no request meets a connection as it closes.
KEEP_ALIVE = 75
MAX_CONNECTIONS = 1000

_RESPONSE = "HTTP/1.1 {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class LimitedProtocol(H11Protocol):
    """A client's connection; it is closed where the client takes too long to send a request."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_state: object = None  # the client's state in h11 that the timer bounds
        self.waits_since: float | None = None  # when the timer began
        self._read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Accept a connection; if there are too many, in place of one that does nothing."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS and not self._make_room():
            self._close_with("503 Service Unavailable")
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        self._bound(None)
        self._stop_read_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came; what has to follow gets a timer."""
        super().data_received(data)
        if self.conn.their_state is h11.DONE and self.flow.read_paused:
            # Further requests wait, but who does not read does not notice that the client leaves.
            if len(self.conn.trailing_data[0]) > MAX_PIPELINED_BYTES:
                self.transport.abort()
            else:
                self.flow.resume_reading()
        self._watch()

    def pause_writing(self) -> None:
        """Stop writing to a client that does not read; it has to go on some time."""
        super().pause_writing()
        self._read_timer = self.loop.call_later(READ_TIMEOUT, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on writing."""
        super().resume_writing()
        self._stop_read_timer()

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the rest of a body that nobody reads."""
        super().on_response_complete()
        self._watch()

    def _watch(self) -> None:
        """Bound the time for what the client has to send now."""
        state = self.conn.their_state
        idle = self.timeout_keep_alive_task is not None  # uvicorn's own timer closes it
        sends = state is h11.SEND_BODY or (state is h11.IDLE and not idle)
        self._bound(state if sends and not self.transport.is_closing() else None)

    def _bound(self, state: object) -> None:
        if state is self._timer_state:
            return  # a client that sends byte by byte gains no time
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_state = state
        # Not the loop's time, which is the same for all connections of one iteration.
        self.waits_since = None if state is None else time.monotonic()
        if state is not None:
            seconds = BODY_TIMEOUT if state is h11.SEND_BODY else HEAD_TIMEOUT
            self._timer = self.loop.call_later(seconds, self._expire)

    def _stop_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _expire(self) -> None:
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            self._close_with("408 Request Timeout")
        else:
            self.transport.abort()

    def _close_with(self, status: str) -> None:
        self.transport.write(_RESPONSE.format(status).encode())
        self.transport.close()

    def _make_room(self) -> bool:
        """Close an idle connection or, if there is none, one whose request is not whole yet.

        The one that has been so for longest: honest clients send their requests at once.

        Returns:
            Whether there was one.
        """
        others = [one for one in self.connections if isinstance(one, LimitedProtocol)]
        idle = {
            one: one.timeout_keep_alive_task.when()
            for one in others
            if one.timeout_keep_alive_task is not None
        }
        unfinished = {one: one.waits_since for one in others if one.waits_since is not None}
        times = idle or unfinished
        if not times:
            return False
        oldest = min(times, key=lambda one: times[one])
        oldest.transport.close()
        self.connections.discard(oldest)  # or it would count until the loop has closed it
        return True

"""HTTP/1.1 connections with limits that hold before a request reaches the application.

`RequestParser` bounds the bytes of a request's head and the work for its body; this bounds the time
that both may take, the number of connections, and what is read of requests that were refused.
"""

import asyncio
import json
import time
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from mgm.serve.limits.request_parser import RequestParser
from mgm.serve.openai.responses import error_body

HEAD_TIMEOUT = 10.0  # seconds from a connection, or a further request's first byte, to its head
BODY_TIMEOUT = 120.0  # seconds from a request's head to the end of its body
READ_TIMEOUT = 120.0  # seconds in which a client reads nothing of a response that is full
MAX_PIPELINED_BYTES = 64 * 2**10  # of further requests that come before a response is complete
MAX_PARSED_BYTES = 16 * 2**10  # of heads and chunked bodies at once: limits hold between two
# Of a body whose request has its response already. Where there is more, or it takes longer, the
# connection is closed: later than the response was sent, so that the client can read it.
MAX_UNREAD_BYTES = 64 * 2**10
LINGER_TIMEOUT = 5.0  # seconds
# Longer than client pools keep idle connections (httpx 5 s, aiohttp 15 s, nginx and AWS load
# balancers 60 s), so that the client closes first and no request meets a connection as it closes.
KEEP_ALIVE = 75
MAX_CONNECTIONS = 1000

_RESPONSE = "HTTP/1.1 {}\r\nContent-Length: {}\r\nConnection: close\r\n{}\r\n"
_JSON = "Content-Type: application/json\r\n"


class LimitedProtocol(H11Protocol):
    """A client's connection; it is closed where the client takes too long to send a request."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn: RequestParser = RequestParser()
        self._unread_bytes = 0  # that came of a body after its request's response
        self._lingers = False  # nothing is parsed or written any more
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
        while data and not (self._lingers or self.transport.is_closing()):
            # A body without chunks costs nothing to parse.
            whole = self.conn.their_state is h11.SEND_BODY and not self.conn.chunked
            size = len(data) if whole else MAX_PARSED_BYTES
            if self._is_answered():
                self._unread_bytes += min(size, len(data))
                if self._unread_bytes > MAX_UNREAD_BYTES:
                    self._linger()
                    return
            super().data_received(data[:size])
            data = data[size:]
        if self._lingers:
            return
        if self.conn.their_state is h11.DONE and self.flow.read_paused:
            # Further requests wait, but who does not read does not notice that the client leaves.
            if len(self.conn.trailing_data[0]) > MAX_PIPELINED_BYTES:
                self.transport.abort()
            else:
                self.flow.resume_reading()
        self._watch()

    def handle_events(self) -> None:
        """Take what was parsed; empty lines before a request are ignored (RFC 9112, 2.2)."""
        if self.conn.their_state is h11.IDLE:
            received = self.conn.trailing_data[0]
            if received[:1] in (b"\r", b"\n"):
                self.conn = RequestParser()  # h11 refuses such lines, and nothing is running
                if request := received.lstrip(b"\r\n"):
                    self.conn.receive_data(request)
        super().handle_events()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that cannot be read, in OpenAI's shape, and close the connection.

        A request that was read to its head may have got its response, or a part of it, already.
        """
        running = self.cycle is not None and not self.cycle.response_complete
        if running and self.cycle.response_started:
            self.transport.abort()
            return
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            error = self.conn.error
            status = HTTPStatus(error.error_status_hint if error is not None else 400)
            reason = str(error).encode("ascii", "backslashreplace").decode()[:200]
            body = json.dumps(error_body(f"the request cannot be read: {reason or msg}"))
            self._write(f"{status.value} {status.phrase}", body)
        if running:  # the application has to end, and its response is not for this client
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._linger()

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
        self._unread_bytes = 0
        super().on_response_complete()
        self._watch()

    def _is_answered(self) -> bool:
        """Whether what comes is the rest of a body whose request has its response."""
        complete = self.cycle is not None and self.cycle.response_complete
        return complete and self.conn.their_state is h11.SEND_BODY

    def _linger(self) -> None:
        """End the connection; drops what comes until the client has read its response and closes.

        Closing at once would throw the response away where the client still sends (RFC 9112, 9.6).
        """
        self._lingers = True
        self.flow.resume_reading()
        self.transport.write_eof()
        self._bound("lingers")

    def _watch(self) -> None:
        """Bound the time for what the client has to send now."""
        if self._lingers:
            return
        if self._is_answered() and not self.transport.is_closing():
            self._bound("unread")
            return
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
            seconds = {h11.IDLE: HEAD_TIMEOUT, h11.SEND_BODY: BODY_TIMEOUT}.get(
                state, LINGER_TIMEOUT
            )
            self._timer = self.loop.call_later(seconds, self._expire)

    def _stop_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _expire(self) -> None:
        if self._lingers or self._is_answered():
            self.transport.abort()
        elif self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            self._close_with("408 Request Timeout")
        else:
            self.transport.abort()

    def _close_with(self, status: str) -> None:
        self._write(status)
        self.transport.close()

    def _write(self, status: str, body: str = "") -> None:
        head = _RESPONSE.format(status, len(body), _JSON if body else "")
        self.transport.write((head + body).encode())

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

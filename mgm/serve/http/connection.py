"""HTTP/1.1 protocol for uvicorn: timeouts, connection limit, lingering close.

`RequestParser` limits the size of heads and the framing of bodies; this file limits the time for
both, the number of connections, and the bytes read after a request was refused.
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
CLIENT_READ_TIMEOUT = 120.0  # seconds without a client reading its response
MAX_PIPELINED_BYTES = 64 * 2**10  # bytes of further requests before a response is complete
MAX_PARSED_BYTES = 16 * 2**10  # bytes of heads and chunked bodies between checks of the limits
# Bytes of a body that are read after the response. Then follows a lingering close, so that the
# client can read the response.
MAX_UNREAD_BYTES = 64 * 2**10
LINGER_TIMEOUT = 5.0  # seconds until a lingering close ends
# Longer than the idle timeout of clients (httpx 5 s, aiohttp 15 s, nginx and AWS load balancers
# 60 s), so that the client closes first, and no request is sent on a connection being closed.
KEEP_ALIVE = 75
MAX_CONNECTIONS = 1000

_RESPONSE = "HTTP/1.1 {}\r\nContent-Length: {}\r\nConnection: close\r\n{}\r\n"
_JSON = "Content-Type: application/json\r\n"


class LimitedProtocol(H11Protocol):
    """Connection of a client, with deadlines for request heads, bodies and reading of responses."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn: RequestParser = RequestParser()
        self._unread_bytes = 0  # body bytes received after the response
        self._lingers = False  # lingering close: input is dropped
        self._timer: asyncio.TimerHandle | None = None
        self._timer_state: object = None  # the state in h11 that the deadline is for
        self.waiting_since: float | None = None  # start of the deadline
        self._read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Accept a connection; at the limit, evict an idle one, or else refuse it."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS and not self._evict_connection():
            self._close_with("503 Service Unavailable")
        else:
            self._update_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        self._set_deadline(None)
        self._stop_read_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes within the limits, and update the deadline."""
        while data and not (self._lingers or self.transport.is_closing()):
            # The cost of parsing a body that is not chunked is negligible.
            unframed = self.conn.their_state is h11.SEND_BODY and not self.conn.chunked
            size = len(data) if unframed else MAX_PARSED_BYTES
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
            # Pipelined requests wait, but the socket is still read, to detect a disconnect.
            if len(self.conn.trailing_data[0]) > MAX_PIPELINED_BYTES:
                self.transport.abort()
            else:
                self.flow.resume_reading()
        self._update_deadline()

    def handle_events(self) -> None:
        """Handle parsed events; empty lines before a request are ignored (RFC 9112, 2.2)."""
        if self.conn.their_state is h11.IDLE:
            received = self.conn.trailing_data[0]
            if received[:1] in (b"\r", b"\n"):
                self.conn = RequestParser()  # h11 refuses such lines
                if request := received.lstrip(b"\r\n"):
                    self.conn.receive_data(request)
        super().handle_events()

    def send_400_response(self, msg: str) -> None:
        """Respond to a malformed request in OpenAI's shape, and close the connection.

        The error may be in the body of a request whose response was started already.
        """
        running = self.cycle is not None and not self.cycle.response_complete
        if running and self.cycle.response_started:
            self.transport.abort()
            return
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            error = self.conn.error
            status = HTTPStatus(error.error_status_hint if error is not None else 400)
            reason = str(error).encode("ascii", "backslashreplace").decode()[:200]
            body = json.dumps(error_body(f"malformed HTTP request: {reason or msg}"))
            self._write(f"{status.value} {status.phrase}", body)
        if running:  # cancel the request in the application
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._linger()

    def pause_writing(self) -> None:
        """Pause a response that the client does not read, with a deadline."""
        super().pause_writing()
        self._read_timer = self.loop.call_later(CLIENT_READ_TIMEOUT, self.transport.abort)

    def resume_writing(self) -> None:
        """Resume the response."""
        super().resume_writing()
        self._stop_read_timer()

    def on_response_complete(self) -> None:
        """Wait for the next request, or drop the rest of an unread body."""
        self._unread_bytes = 0
        super().on_response_complete()
        self._update_deadline()

    def _is_answered(self) -> bool:
        """Whether the client still sends a body after its response is complete."""
        complete = self.cycle is not None and self.cycle.response_complete
        return complete and self.conn.their_state is h11.SEND_BODY

    def _linger(self) -> None:
        """Lingering close: drop input until the client has read the response and closes.

        Closing at once could discard the response while the client is sending (RFC 9112, 9.6).
        """
        self._lingers = True
        self.flow.resume_reading()
        self.transport.write_eof()
        self._set_deadline("lingers")

    def _update_deadline(self) -> None:
        """Set the deadline for the expected input: a head, a body, or the rest of a body."""
        if self._lingers:
            return
        if self._is_answered() and not self.transport.is_closing():
            self._set_deadline("unread")
            return
        state = self.conn.their_state
        idle = self.timeout_keep_alive_task is not None  # uvicorn's timer closes it
        is_sending = state is h11.SEND_BODY or (state is h11.IDLE and not idle)
        self._set_deadline(state if is_sending and not self.transport.is_closing() else None)

    def _set_deadline(self, state: object) -> None:
        if state is self._timer_state:
            return  # the deadline does not move with each byte
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_state = state
        # Not the loop's time, which is equal for all connections of one iteration.
        self.waiting_since = None if state is None else time.monotonic()
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

    def _evict_connection(self) -> bool:
        """Close the connection that has been idle or sending for longest; idle ones first.

        Returns:
            Whether there was such a connection.
        """
        others = [one for one in self.connections if isinstance(one, LimitedProtocol)]
        idle = {
            one: one.timeout_keep_alive_task.when()
            for one in others
            if one.timeout_keep_alive_task is not None
        }
        sending = {one: one.waiting_since for one in others if one.waiting_since is not None}
        times = idle or sending
        if not times:
            return False
        oldest = min(times, key=lambda one: times[one])
        oldest.transport.close()
        self.connections.discard(oldest)  # not counted any more, although it is closed later
        return True

"""HTTP/1.1 request parser (h11) with a limit on the framing overhead of chunked bodies."""

import h11

MAX_HEAD_BYTES = 32 * 2**10  # request line and header fields; or trailer fields
# Framing of a chunked body: chunk sizes, extensions, line breaks, trailer fields. A chunk costs
# about 20 us, whether it has one byte or 64 KiB: tiny ones could block the server.
MAX_FRAMING_BYTES = 16 * 2**10
CONTENT_PER_FRAMING = 16  # bytes of content per additional byte of framing
MIN_CHUNK_FRAMING = 5  # a digit and two line breaks


class RequestParser(h11.Connection):
    """h11 connection of a server; refuses chunked bodies that are mostly framing.

    Attributes:
        error: error of the last request; its `error_status_hint` is the HTTP status.
        chunked: whether the current or last request has a chunked body.
    """

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MAX_HEAD_BYTES)
        self.error: h11.RemoteProtocolError | None = None
        self.chunked = False
        self._received = 0  # bytes since the request's head
        self._content = 0  # bytes of the body among them
        self._chunks = 0

    def receive_data(self, data: bytes) -> None:
        """Add received bytes."""
        super().receive_data(data)
        self._received += len(data)

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """The next parsed event (h11).

        Raises:
            h11.RemoteProtocolError: the request is malformed, or its body is mostly framing.
        """
        try:
            event = super().next_event()
            self._check(event)
        except h11.RemoteProtocolError as error:
            self.error = error
            raise
        return event

    def _check(self, event: h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]) -> None:
        if isinstance(event, h11.Request):
            self.chunked = any(name == b"transfer-encoding" for name, _ in event.headers)
            # A copy of the unparsed bytes; h11 has no public way to get their number.
            self._received = len(self.trailing_data[0]) if self.chunked else 0
            self._content = self._chunks = 0
            return
        if not self.chunked or self.their_state is not h11.SEND_BODY:
            return
        if isinstance(event, h11.Data):
            self._content += len(event.data)
            self._chunks += event.chunk_start
            framing = self._chunks * MIN_CHUNK_FRAMING
        else:  # an incomplete chunk header or trailer
            framing = self._received - self._content
        if framing > MAX_FRAMING_BYTES + self._content // CONTENT_PER_FRAMING:
            raise h11.RemoteProtocolError(
                "the body is mostly chunk sizes, extensions or trailer fields; send larger chunks",
                error_status_hint=413,
            )

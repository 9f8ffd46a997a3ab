"""aiohttp responses of untrusted servers: limits on interim (1xx) responses and tiny chunks."""

from typing import Any

import aiohttp
from aiohttp.connector import Connection

MAX_INTERIM = 8  # responses with status 100 to 199 before the final one
# Above this number of chunks of a response, their mean size must be at least `MIN_CHUNK_BYTES`. A
# chunk costs about 3 us, whether it has one byte or 64 KiB: tiny ones could block the event loop.
MAX_CHUNKS = 4096
MIN_CHUNK_BYTES = 16


class BoundedResponse(aiohttp.ClientResponse):
    """A `response_class` for aiohttp's session; read its body with `read_chunk`.

    aiohttp itself reads any number of interim responses, blocking the event loop meanwhile.
    """

    _chunks = 0
    _chunk_bytes = 0

    async def start(self, connection: Connection) -> "BoundedResponse":
        """Read the head of the response.

        Raises:
            aiohttp.ClientPayloadError: more than `MAX_INTERIM` interim responses come before it.
        """
        protocol, count = connection.protocol, 0
        if protocol is None:
            raise aiohttp.ClientConnectionError("the connection is closed")
        read_message = protocol.read

        async def read_limited() -> Any:
            nonlocal count
            message, payload = await read_message()
            count += 100 <= message.code < 200
            if count > MAX_INTERIM:
                connection.close()
                raise aiohttp.ClientPayloadError(f"more than {MAX_INTERIM} interim responses")
            return message, payload

        protocol.read = read_limited
        try:
            await super().start(connection)
        finally:
            del protocol.read  # restores the method of the class
        return self

    async def read_chunk(self) -> bytes:
        """The next bytes of the body; empty: it is complete.

        Raises:
            aiohttp.ClientPayloadError: the body is cut off, or comes in chunks of a few bytes.
        """
        part, ends_chunk = b"", True
        while ends_chunk and not part:  # the end of a chunk whose bytes were returned before
            part, ends_chunk = await self.content.readchunk()
            self._chunks += ends_chunk
        self._chunk_bytes += len(part)
        if self._chunks > MAX_CHUNKS and self._chunk_bytes < self._chunks * MIN_CHUNK_BYTES:
            self.close()
            raise aiohttp.ClientPayloadError("the body comes in chunks of a few bytes")
        return part

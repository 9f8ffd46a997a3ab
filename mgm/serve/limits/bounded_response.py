"""aiohttp responses of untrusted servers, with a limit on interim (1xx) responses."""

from typing import Any

import aiohttp
from aiohttp.connector import Connection

MAX_INTERIM = 8  # responses with status 100 to 199 before the final one


class BoundedResponse(aiohttp.ClientResponse):
    """A `response_class` for aiohttp's session.

    aiohttp itself reads any number of interim responses, blocking the event loop meanwhile.
    """

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

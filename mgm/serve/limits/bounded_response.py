"""Responses of servers that others run, whose interim responses are limited."""

from typing import Any

import aiohttp
from aiohttp.connector import Connection

MAX_INTERIM = 8  # responses with a status of 100 to 199 before the response to a request


class BoundedResponse(aiohttp.ClientResponse):
    """A response of an aiohttp session, to be given to it as `response_class`.

    aiohttp reads interim responses on and on, and while it has some it lets nothing else run.
    """

    async def start(self, connection: Connection) -> "BoundedResponse":
        """Read the response's head.

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
            del protocol.read  # the class has it
        return self

"""Cancels the work for a client that disconnects."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
from starlette.requests import ClientDisconnect
from starlette.types import Receive

Result = TypeVar("Result")


async def run_until_disconnect(receive: Receive, call: Callable[[], Awaitable[Result]]) -> Result:
    """Run a call, which is cancelled when the client disconnects; returns its result.

    Args:
        receive: ASGI's `receive`; the body was read already.
        call: coroutine function that handles the request.

    Raises:
        ClientDisconnect: the client disconnected before the call returned.
    """
    results: list[Result] = []
    errors: list[Exception] = []

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        try:
            results.append(await call())
        except Exception as error:  # noqa: BLE001  raised below: the group would wrap it
            errors.append(error)
        group.cancel_scope.cancel()
    if errors:
        raise errors[0]
    if not results:
        raise ClientDisconnect
    return results[0]

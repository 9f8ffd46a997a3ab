"""Work that one process of a run does for all of them, and faults that all of them learn of."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch.distributed as dist

from mgm.errors import MGMError, one_line

Result = TypeVar("Result")

# What gloo and NCCL say when a process that they wait for is gone.
LOST = ("Connection reset by peer", "Connection closed by peer", "remote process exited")


def computed_once(compute: Callable[[], Result]) -> Result:
    """The result of a function that the first process calls; all processes have to ask.

    Raises:
        MGMError: the function did, in the first process; it is raised in all.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return compute()
    shared: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            shared[0] = compute()
        except MGMError as error:
            shared[1] = str(error)
    dist.broadcast_object_list(shared)
    if shared[1] is not None:
        raise MGMError(shared[1])
    return shared[0]


def checked_everywhere(check: Callable[[], Result]) -> Result:
    """The result of a check that every process makes; all of them have to ask.

    Raises:
        MGMError: the check did in one of them; the first such fault is raised in all, so that none
            waits for one that has ended.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return check()
    result, fault = None, None
    try:
        result = check()
    except MGMError as error:
        fault = str(error)
    faults: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(faults, fault)
    for found in faults:
        if found is not None:
            raise MGMError(found)
    return cast(Result, result)


@contextmanager
def lost_process() -> Generator[None]:
    """Make one line of what is raised in a process that waits for one that has ended.

    Raises:
        MGMError: the block was waiting for another process, which is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in LOST):
            raise
        raise MGMError(
            f"another process of this run has ended, or cannot be reached "
            f"({one_line(error)[:200]}); its own output says why, and the same command goes on "
            "from the last checkpoint"
        ) from error

"""Work that one process of a run does for all of them, and faults that all of them learn of."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch.distributed as dist

from mgm.errors import MGMError

Result = TypeVar("Result")


class ReportedByRank0Error(MGMError):
    """A fault that all processes have learned of; the first one reports it for the others."""


def is_single_process() -> bool:
    """Whether the run has one process, and nobody to wait for."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1


def broadcast_from_rank0(compute: Callable[[], Result]) -> Result:
    """The result of a function that the first process calls; all processes have to ask.

    Raises:
        MGMError: the function did, in the first process; it is raised in all, in the others as
            `ReportedByRank0Error`.
    """
    if is_single_process():
        return compute()
    shared: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            shared[0] = compute()
        except MGMError as error:
            shared[1] = str(error)
    dist.broadcast_object_list(shared)
    if shared[1] is not None:
        raise _shared_fault(shared[1])
    return shared[0]


def check_on_all_ranks(check: Callable[[], Result]) -> Result:
    """The result of a check that every process makes; all of them have to ask.

    Raises:
        MGMError: the check did in one of them; the first such fault is raised in all, so that none
            waits for one that has ended; in all but the first process as `ReportedByRank0Error`.
    """
    if is_single_process():
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
            raise _shared_fault(found)
    return cast(Result, result)


def _shared_fault(message: str) -> MGMError:
    """What is raised here of a fault that all processes have learned of."""
    return MGMError(message) if dist.get_rank() == 0 else ReportedByRank0Error(message)

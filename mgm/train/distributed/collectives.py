"""Collectives: sums of tensors, results of rank 0, and errors that all ranks raise together."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch.distributed as dist
from torch import Tensor

from mgm.errors import MGMError

Result = TypeVar("Result")


class ReportedByRank0Error(MGMError):
    """An error that all processes raise and rank 0 reports."""


def is_single_process() -> bool:
    """Whether the run has one process, so that collectives are skipped."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1


def all_reduce_sum(numbers: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place; a collective where there are several."""
    if not is_single_process():
        dist.all_reduce(numbers)
    return numbers


def broadcast_from_rank0(compute: Callable[[], Result]) -> Result:
    """Call a function on rank 0 and broadcast its result; a collective.

    Raises:
        MGMError: the function raised it on rank 0; raised on all ranks, on the others as
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
        raise _error_of_all(shared[1])
    return shared[0]


def check_on_all_ranks(check: Callable[[], Result]) -> Result:
    """Call a check on every rank; a collective.

    Raises:
        MGMError: the check failed on a rank; the error of the lowest such rank is raised on all,
            so that none waits for one that has ended; on others than rank 0 as
            `ReportedByRank0Error`.
    """
    if is_single_process():
        return check()
    result, message = None, None
    try:
        result = check()
    except MGMError as error:
        message = str(error)
    messages: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(messages, message)
    for reported in messages:
        if reported is not None:
            raise _error_of_all(reported)
    return cast(Result, result)


def _error_of_all(message: str) -> MGMError:
    """The error that this rank raises for one that all ranks have."""
    return MGMError(message) if dist.get_rank() == 0 else ReportedByRank0Error(message)

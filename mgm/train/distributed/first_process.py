"""Work that one process of a run does for all of them."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from mgm.errors import MGMError

Result = TypeVar("Result")


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

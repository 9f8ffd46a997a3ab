"""Faults of one process that others wait for."""

from functools import partial

import pytest
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from mgm.errors import MGMError
from mgm.train.distributed.first_process import (
    ReportedByFirstError,
    checked_everywhere,
    computed_once,
)


def fail() -> None:
    raise MGMError("nothing there")


def test_one_process_checks_alone():
    assert checked_everywhere(lambda: 3) == 3
    with pytest.raises(MGMError, match="nothing there"):
        checked_everywhere(fail)


def raised_in(rank: int, store: str) -> None:
    """In one of three processes: who raises what."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=3)
    wanted = MGMError if rank == 0 else ReportedByFirstError
    faults = (
        partial(checked_everywhere, fail),
        partial(checked_everywhere, fail if rank == 2 else lambda: 3),
        partial(computed_once, fail if rank == 0 else lambda: 3),
    )
    for fault in faults:
        with pytest.raises(MGMError, match="nothing there") as caught:
            fault()
        assert type(caught.value) is wanted
    assert computed_once(lambda: 3) == checked_everywhere(lambda: 3) == 3
    dist.barrier()


@pytest.mark.slow
def test_the_first_process_reports_what_all_have_learned(tmp_path):
    multiprocessing.spawn(raised_in, (str(tmp_path / "store"),), nprocs=3)

"""Errors in one of several processes that wait for one another."""

from functools import partial

import pytest
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from mgm.errors import MGMError
from mgm.train.distributed.collectives import (
    ReportedByRank0Error,
    broadcast_from_rank0,
    check_on_all_ranks,
)


def fail() -> None:
    raise MGMError("nothing there")


def test_single_process():
    assert check_on_all_ranks(lambda: 3) == 3
    with pytest.raises(MGMError, match="nothing there"):
        check_on_all_ranks(fail)


def raised_in(rank: int, store: str) -> None:
    """Exceptions of three processes, of which one fails."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=3)
    expected = MGMError if rank == 0 else ReportedByRank0Error
    faults = (
        partial(check_on_all_ranks, fail),
        partial(check_on_all_ranks, fail if rank == 2 else lambda: 3),
        partial(broadcast_from_rank0, fail if rank == 0 else lambda: 3),
    )
    for fault in faults:
        with pytest.raises(MGMError, match="nothing there") as caught:
            fault()
        assert type(caught.value) is expected
    assert broadcast_from_rank0(lambda: 3) == check_on_all_ranks(lambda: 3) == 3
    dist.barrier()


@pytest.mark.slow
def test_rank_0_reports_the_error(tmp_path):
    multiprocessing.spawn(raised_in, (str(tmp_path / "store"),), nprocs=3)

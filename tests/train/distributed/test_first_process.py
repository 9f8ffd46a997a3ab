"""Faults of one process that others wait for."""

import pytest

from mgm.errors import MGMError
from mgm.train.distributed.first_process import checked_everywhere, lost_process


def test_one_process_checks_alone():
    assert checked_everywhere(lambda: 3) == 3

    def check() -> None:
        raise MGMError("nothing there")

    with pytest.raises(MGMError, match="nothing there"):
        checked_everywhere(check)


def test_a_process_that_is_gone_is_one_line():
    lost = "[gloo/pair.cc:534] Connection closed by peer\n[127.0.0.1]:5"
    ended = r"^another process of this run has ended.*by peer"
    with pytest.raises(MGMError, match=ended) as caught, lost_process():
        raise RuntimeError(lost)
    assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeError, match="out of memory"), lost_process():
        raise RuntimeError("out of memory")

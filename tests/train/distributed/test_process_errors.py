"""Errors of a process whose peers have ended."""

import pytest

from mgm.errors import MGMError
from mgm.train.distributed.process_errors import data_loader_errors, lost_process_errors


def test_ended_peer_is_one_line():
    lost = "[gloo/pair.cc:534] Connection closed by peer\n[127.0.0.1]:5"
    ended = r"^another process of this run has ended.*by peer"
    with pytest.raises(MGMError, match=ended) as caught, lost_process_errors():
        raise RuntimeError(lost)
    assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeError, match="out of memory"), lost_process_errors():
        raise RuntimeError("out of memory")


def test_error_of_a_loader_worker():
    wrapped = (
        "Caught BadSampleError in DataLoader worker process 0.\nOriginal Traceback (most recent "
        'call last):\n  File "x.py", line 1\nmgm.data.errors.BadSampleError: a.json, sample 3: bad'
    )
    with pytest.raises(MGMError) as caught, data_loader_errors():
        raise MGMError(wrapped)
    assert str(caught.value) == "a.json, sample 3: bad"
    with pytest.raises(MGMError, match=r"^own$"), data_loader_errors():
        raise MGMError("own")
    died = "DataLoader worker (pid 7) is killed by signal: Killed."
    with pytest.raises(MGMError, match="use fewer with"), data_loader_errors():
        raise RuntimeError(died)
    with pytest.raises(RuntimeError, match="out of memory"), data_loader_errors():
        raise RuntimeError("out of memory")

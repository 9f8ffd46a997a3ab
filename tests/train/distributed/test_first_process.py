"""Faults of one process that others wait for."""

import pytest

from mgm.errors import MGMError
from mgm.train.distributed.first_process import checked_everywhere


def test_one_process_checks_alone():
    assert checked_everywhere(lambda: 3) == 3

    def check() -> None:
        raise MGMError("nothing there")

    with pytest.raises(MGMError, match="nothing there"):
        checked_everywhere(check)

"""What all tests share."""

import os
import tempfile
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Make programs that tests start begin with everything imported; see `tests.preloaded`."""
    if "MGM_TEST_PYTHON" not in os.environ:  # set in the processes of pytest-xdist
        from tests.preloaded import write_stand_in

        folder = config.stash.setdefault(FOLDER, tempfile.TemporaryDirectory(prefix="mgm-tests-"))
        os.environ["MGM_TEST_PYTHON"] = str(write_stand_in(Path(folder.name)))


FOLDER = pytest.StashKey[tempfile.TemporaryDirectory]()

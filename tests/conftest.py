"""Shared by all tests: fast start of programs, and a time limit for unmarked tests."""

import logging
import os
import tempfile
from collections.abc import Generator, MutableMapping
from pathlib import Path

import pytest

FOLDER = pytest.StashKey[tempfile.TemporaryDirectory[str]]()
EXEMPT = ("slow", "process", "heavy", "browser", "gpu")  # marks of tests that may take longer
# CPU seconds of a test without a mark: twice the target, for loaded machines.
MAX_CPU_SECONDS = 10.0
# Environment variables of users that change results of programs and libraries.
SETTINGS = (
    *("ACCELERATE_", "COLUMNS", "DEEPSPEED_", "DIFFUSERS_", "FSDP_", "GRADIO_", "HF_", "LINES"),
    *("LOCAL_RANK", "MASTER_", "MGM_API_KEYS", "NO_COLOR", "OPENAI_", "RANK", "TORCHELASTIC_"),
    *("TRANSFORMERS_", "WANDB_", "WORLD_SIZE", "http_", "https_", "all_", "no_proxy"),
    *("HTTP_", "HTTPS_", "ALL_PROXY", "NO_PROXY"),
)


def forget_settings(variables: MutableMapping[str, str]) -> None:
    """Remove environment variables of the user that change results."""
    for name in list(variables):
        if name.startswith(SETTINGS):
            del variables[name]


forget_settings(os.environ)  # before they are read
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests are small, and processes share the cores


def pytest_configure(config: pytest.Config) -> None:
    """Start programs from a process with all imports; see `tests.preloaded`."""
    if "MGM_TEST_PYTHON" not in os.environ:  # it exists in the processes of pytest-xdist
        folder = config.stash[FOLDER] = tempfile.TemporaryDirectory(prefix="mgm-tests-")
        stand_in = Path(folder.name) / "python"
        os.environ["MGM_TEST_PYTHON"] = str(stand_in)
        from tests.preloaded import write_stand_in  # which reads that variable

        write_stand_in(stand_in)


@pytest.fixture(autouse=True)
def level() -> Generator[None]:
    """Restore the level of our logger, which a program's main changes."""
    log = logging.getLogger("mgm")
    before = log.level
    yield
    log.setLevel(before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test that takes more CPU time than its tier allows."""
    from tests.preloaded import cpu_seconds

    start = cpu_seconds(item.nodeid)
    result = yield
    taken = cpu_seconds(item.nodeid) - start
    if taken > MAX_CPU_SECONDS and not any(item.get_closest_marker(name) for name in EXEMPT):
        pytest.fail(
            f"took {taken:.1f} s of CPU: make it smaller, or mark it as one of "
            f"{', '.join(EXEMPT[:-1])} (see CONTRIBUTING.md)",
            pytrace=False,
        )
    return result

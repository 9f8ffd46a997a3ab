"""The folder of a unit: settings, lock, log, result or failure; the files determine the state."""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

from mgm.atomic import atomic_file
from mgm.errors import MGMError
from playground.ablation.study import result_settings

LOCK_SECONDS = 5.0  # timeout; `is_locked` of another process also holds the lock for a moment


class State(StrEnum):
    """State of a unit, derived from the files in its folder."""

    OPEN = "open"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    FINISHED = "finished"
    FAILED = "failed"


class UnitFolder:
    """The folder of one unit; any process may read it, and at most one runs the unit.

    Args:
        path: the folder, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings_file = path / "config.json"
        self.lock_file = path / "lock"
        self.log_file = path / "log.txt"
        self.result_file = path / "result.json"
        self.failure_file = path / "failure.json"
        self.starts_file = path / "starts.json"

    @property
    def state(self) -> State:
        """The state; INTERRUPTED for a unit whose processes were killed."""
        if self.result_file.exists():
            return State.FINISHED
        if self.is_locked():
            return State.RUNNING
        if self.failure_file.exists():
            return State.FAILED
        return State.INTERRUPTED if self.starts_file.exists() else State.OPEN

    def is_locked(self) -> bool:
        """Whether any process of the unit is alive: they all hold the lock.

        The kernel releases it when the last one ends, so a lock cannot be stale, and the reuse of
        a process id does not matter.
        """
        try:
            with self.lock_file.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    @contextmanager
    def lock(self) -> Generator[int]:
        """Hold the lock, for a process to start; yields the file descriptor.

        Processes that inherit the descriptor hold the lock too, and keep it after the block.

        Raises:
            MGMError: the unit is running.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + LOCK_SECONDS
        with self.lock_file.open("ab") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        raise MGMError(f"{self.path}: is running already; see --list") from error
                    time.sleep(0.01)
            file.truncate(0)
            yield file.fileno()

    def prepare(self, settings: Mapping[str, Any]) -> int:
        """Make the folder ready to start or resume; returns how often the unit was started.

        What was trained with other settings, or by code of another commit, is removed. The lock has
        to be held.

        Args:
            settings: content of config.json.
        """
        earlier = self.read(self.settings_file)
        if not earlier or result_settings(earlier) != result_settings(settings):
            for path in self.path.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path != self.lock_file:
                    path.unlink()
        self.failure_file.unlink(missing_ok=True)
        self.write(self.settings_file, settings)
        starts = self.read(self.starts_file).get("starts", 0) + 1
        self.write(self.starts_file, {"starts": starts})
        return starts

    @property
    def group(self) -> int | None:
        """Process group of the unit, as its first process wrote it; None: not written yet."""
        text = self.lock_file.read_text(encoding="utf-8")
        return int(text) if text.isdecimal() else None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all processes of the unit, if it is running."""
        if self.is_locked() and (group := self.group) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, number)

    @property
    def is_orphaned(self) -> bool:
        """Whether the first process of the unit was killed while its children still run."""
        group = self.group if self.is_locked() else None
        if group is None:
            return False
        try:
            stat = Path(f"/proc/{group}/stat").read_text(encoding="utf-8")
        except OSError:
            return True
        return stat.rpartition(")")[2].split()[0] == "Z"

    def last_lines(self, count: int = 5) -> list[str]:
        """Last non-empty lines of the log; progress bars as their last state."""
        if not self.log_file.is_file():
            return []
        text = self.log_file.read_text(encoding="utf-8", errors="replace")
        lines = [line.rpartition("\r")[2].rstrip() for line in text[-20_000:].splitlines()]
        return [line for line in lines if line][-count:]

    def write(self, file: Path, content: Mapping[str, Any]) -> None:
        """Write one of its JSON files atomically."""
        with atomic_file(file) as part:
            text = json.dumps(content, indent=1, ensure_ascii=False)
            part.write_text(text + "\n", encoding="utf-8")

    def read(self, file: Path) -> dict[str, Any]:
        """Read one of its JSON files; {} if it does not exist."""
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

"""Runs the open units of a study in parallel, each in its own process group."""

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mgm.errors import MGMError
from playground.ablation.execution.checkout import Checkout
from playground.ablation.execution.unit_folder import State, UnitFolder
from playground.ablation.study import Arm, Study, Unit

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
MAX_STARTS = 12  # a unit that was killed this often counts as failed
EXIT_INTERRUPTED = 75  # exit status of a unit with a killed process, which can be restarted
PAUSE_FILE = "pause"  # in the output folder


@dataclass
class Runner:
    """Starts units, pauses and resumes them, and records failures.

    Units survive it: a new runner includes those still running in its count.

    Args:
        study: the units to run.
        out: folder for units and data.
        checkout: the code that units run.
        inputs: folders of the language model and the encoders.
        slots: maximum number of units that run in parallel.
        pause_files: files whose existence stops all units.
    """

    study: Study
    out: Path
    checkout: Checkout
    inputs: Mapping[str, Path]
    slots: int
    pause_files: Sequence[Path]
    _children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _paused: bool | None = None  # the last signal: stop, continue, or none yet

    def run(self, units: Sequence[Unit]) -> None:
        """Run units until none is open or running; an interrupt terminates running units."""
        folders = {unit.name: unit_folder(self.out, unit) for unit in units}
        try:
            while True:
                self._reap(folders)
                states = {name: folder.state for name, folder in folders.items()}
                running = self._running(states)
                if self._is_paused(running, folders):
                    time.sleep(POLL_SECONDS)
                    continue
                for name in running:
                    if folders[name].is_orphaned:
                        logger.info("%s: its first process was killed; starting it again", name)
                        folders[name].signal(signal.SIGKILL)
                ready = [u for u in units if u.name not in running and self._is_ready(u, states)]
                if not ready and not running:
                    return
                for unit in ready[: max(0, self.slots - len(running))]:
                    self._start(unit, folders[unit.name])
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            for folder in folders.values():
                folder.signal(signal.SIGCONT)  # a stopped process does not handle SIGTERM
                folder.signal(signal.SIGTERM)
            raise

    def _running(self, states: Mapping[str, State]) -> list[str]:
        return [n for n, state in states.items() if state is State.RUNNING or n in self._children]

    def _is_ready(self, unit: Unit, states: Mapping[str, State]) -> bool:
        is_open = states[unit.name] in (State.OPEN, State.INTERRUPTED)
        return is_open and not missing_inputs(unit, self.inputs)

    def _is_paused(self, running: Sequence[str], folders: Mapping[str, UnitFolder]) -> bool:
        """Whether a pause is requested; stops or continues units accordingly."""
        reason = next((file for file in self.pause_files if file.exists()), None)
        paused = reason is not None
        if paused != self._paused:
            logger.info("paused: %s exists", reason) if paused else logger.info("running")
        if paused or paused != self._paused:
            # At each poll: a unit that had just started may have missed the signal.
            for name in running:
                folders[name].signal(signal.SIGSTOP if paused else signal.SIGCONT)
        self._paused = paused
        return paused

    def _start(self, unit: Unit, folder: UnitFolder) -> None:
        """Start a unit's process, which inherits the lock of its folder."""
        settings = self.study.unit_config(unit) | {"commit": self.checkout.commit}
        paths = {"data": str(self.out / "data"), **{n: str(p) for n, p in self.inputs.items()}}
        with folder.lock() as descriptor:
            starts = folder.prepare(settings | {"paths": paths})
            if starts > MAX_STARTS:
                reason = f"its processes were killed {MAX_STARTS} times"
                folder.write(folder.failure_file, {"reason": reason, "log": folder.last_lines()})
                logger.info("%s: failed: %s", unit.name, reason)
                return
            module = "playground.ablation.execution.run_unit"
            with folder.log_file.open("ab") as log:
                self._children[unit.name] = subprocess.Popen(
                    [sys.executable, "-m", module, str(folder.path), str(descriptor)],
                    cwd=self.checkout.folder,
                    env=self.checkout.environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(descriptor,),
                    start_new_session=True,
                )
        logger.info("%s: started%s", unit.name, f" (start {starts})" if starts > 1 else "")

    def _reap(self, folders: Mapping[str, UnitFolder]) -> None:
        """Record the exit status of units that this runner started."""
        for name, process in list(self._children.items()):
            status = process.poll()
            if status is None:
                continue
            del self._children[name]
            folder = folders[name]
            if status == 0:
                logger.info("%s: finished", name)
            elif status < 0 or status == EXIT_INTERRUPTED:
                logger.info("%s: interrupted", name)
            else:
                lines = folder.last_lines()
                folder.write(folder.failure_file, {"reason": f"exit status {status}", "log": lines})
                logger.info("%s: failed: %s", name, lines[-1] if lines else f"status {status}")


def unit_folder(out: Path, unit: Unit) -> UnitFolder:
    """Folder of a unit below the output folder of the study."""
    return UnitFolder(out / "units" / unit.name)


def missing_inputs(unit: Unit, inputs: Mapping[str, Path]) -> list[Path]:
    """List the input folders of a unit that do not exist yet."""
    needed = [inputs["language_model"], *encoder_folders(unit.arm, inputs["encoders"])]
    return [folder for folder in needed if folder is not None and not folder.is_dir()]


def encoder_folders(arm: Arm, encoders: Path) -> tuple[Path, Path | None]:
    """Folders of an arm's ViT and ConvNeXt; None: the arm does not use a ConvNeXt."""
    chosen = arm.encoder_set
    if chosen.convnext is None or arm.fusion.get("mode") == "none":
        return encoders / chosen.vit.name, None
    return encoders / chosen.vit.name, encoders / chosen.convnext.name


def stop_units(out: Path, units: Sequence[Unit]) -> int:
    """Create the pause file and stop all running units; returns their number.

    Raises:
        MGMError: the output folder does not exist.
    """
    if not out.is_dir():
        raise MGMError(f"{out}: does not exist; nothing has run there")
    (out / PAUSE_FILE).touch()
    return _signal_running(out, units, signal.SIGSTOP)


def continue_units(out: Path, units: Sequence[Unit]) -> int:
    """Remove the pause file and continue all stopped units; returns their number."""
    (out / PAUSE_FILE).unlink(missing_ok=True)
    return _signal_running(out, units, signal.SIGCONT)


def _signal_running(out: Path, units: Sequence[Unit], number: signal.Signals) -> int:
    running = [folder for unit in units if (folder := unit_folder(out, unit)).is_locked()]
    for folder in running:
        folder.signal(number)
    return len(running)

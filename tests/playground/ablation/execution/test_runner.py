"""The runner with units whose program is a short script: states, pauses, failures and kills."""

import os
import signal
import time
from pathlib import Path
from threading import Thread

import pytest

from playground.ablation.execution.checkout import Checkout
from playground.ablation.execution.runner import (
    MAX_STARTS,
    PAUSE_FILE,
    Runner,
    continue_units,
    stop_units,
    unit_folder,
)
from playground.ablation.execution.unit_folder import State, UnitFolder
from playground.ablation.study import read_study
from tests.playground.ablation.test_study import STUDY

pytestmark = pytest.mark.process
LIMIT = 20.0  # seconds
# As run_unit.py does: writes its process group to the lock, has a child that holds the lock too.
PROGRAM = """
import json, os, pathlib, subprocess, sys, time
folder, lock = pathlib.Path(sys.argv[1]), int(sys.argv[2])
os.ftruncate(lock, 0)
os.write(lock, str(os.getpgrp()).encode())
settings = json.loads((folder / "config.json").read_text())
{body}
(folder / "result.json").write_text(json.dumps({{"commit": settings["commit"]}}))
"""


@pytest.fixture
def study(tmp_path):
    file = tmp_path / "study.toml"
    file.write_text(STUDY)
    return read_study(file)


@pytest.fixture
def runner(study, tmp_path):
    """A function that makes a runner whose units do something."""
    encoders = tmp_path / "encoders"
    for name in ("language", "encoders/clip-vit-nano-patch14-168", "encoders/convnext-nano-384"):
        (tmp_path / name).mkdir(parents=True)

    def make(body: str, commit: str = "abc") -> Runner:
        package = tmp_path / "code/playground/ablation/execution"
        package.mkdir(parents=True, exist_ok=True)
        (package / "run_unit.py").write_text(PROGRAM.format(body=body))
        out = tmp_path / "out"
        inputs = {"language_model": tmp_path / "language", "encoders": encoders}
        checkout = Checkout(tmp_path / "code", commit)
        return Runner(study, out, checkout, inputs, 2, [out / PAUSE_FILE])

    return make


def folders(runner: Runner) -> list[UnitFolder]:
    return [unit_folder(runner.out, unit) for unit in runner.study.units]


def wait_until(holds) -> None:
    deadline = time.monotonic() + LIMIT
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def process_states(folder: UnitFolder) -> set[str]:
    """The states of a unit's processes: R, S, T (stopped), ...

    A process that waits for a stopped child to start its program is in state D.
    """
    states = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == folder.group:
            states.add(fields[0])
    return states


def test_all_units_run_once_two_at_a_time(runner):
    log = "log = folder.parents[3] / 'log'; log.open('a').write(f'{time.time()} 1\\n'); "
    made = runner(log + "time.sleep(0.3); log.open('a').write(f'{time.time()} -1\\n')")
    made.run(made.study.units)
    assert {folder.state for folder in folders(made)} == {State.FINISHED}
    lines = (made.out / "log").read_text().splitlines()
    at_a_time, running = [], 0
    for _, change in sorted(line.split() for line in lines):
        running += int(change)
        at_a_time.append(running)
    assert len(lines) == 8
    assert max(at_a_time) == 2
    made.run(made.study.units)
    assert (made.out / "log").read_text().splitlines() == lines


def test_failures_are_recorded_and_others_go_on(runner):
    made = runner("if settings['seed'] == 1: print('training:'); sys.exit('loss is nan at step 7')")
    made.run(made.study.units)
    assert [folder.state for folder in folders(made)] == [State.FAILED, State.FINISHED] * 2
    failure = folders(made)[0].read(folders(made)[0].failure_file)
    assert failure == {"reason": "exit status 1", "log": ["training:", "loss is nan at step 7"]}


@pytest.mark.parametrize("way", ["file", "command"])
def test_pause_stops_all_processes_until_resume(runner, way):
    made = runner("child = subprocess.Popen(['sleep', '0.5'], pass_fds=(lock,)); child.wait()")
    thread = Thread(target=made.run, args=(made.study.units[:2],), daemon=True)
    thread.start()
    one = folders(made)[0]
    wait_until(lambda: one.lock_file.exists() and one.is_locked() and one.group)
    if way == "file":
        (made.out / PAUSE_FILE).touch()
    else:
        assert stop_units(made.out, made.study.units) >= 1
    wait_until(lambda: "T" in process_states(one) <= {"T", "D"})
    time.sleep(1.5)
    assert one.state is State.RUNNING
    assert process_states(one) <= {"T", "D"}
    if way == "file":
        (made.out / PAUSE_FILE).unlink()
    else:
        continue_units(made.out, made.study.units)
    thread.join(LIMIT)
    assert [folder.state for folder in folders(made)[:2]] == [State.FINISHED] * 2


def test_a_killed_unit_starts_again_when_its_last_process_is_gone(runner):
    body = """
starts = json.loads((folder / "starts.json").read_text())["starts"]
if starts == 1:
    subprocess.Popen(["sleep", "60"], pass_fds=(lock,))
    os.kill(os.getpid(), 9)
"""
    made = runner(body)
    made.run(made.study.units[:1])
    folder = folders(made)[0]
    assert folder.state is State.FINISHED
    assert folder.read(folder.starts_file) == {"starts": 2}


def test_a_unit_that_is_always_killed_has_failed(runner, monkeypatch):
    monkeypatch.setattr("playground.ablation.execution.runner.POLL_SECONDS", 0.01)
    made = runner("print('out of memory', flush=True); os.kill(os.getpid(), 9)")
    made.run(made.study.units[:1])
    failure = folders(made)[0].read(folders(made)[0].failure_file)
    assert failure["reason"] == f"its processes were killed {MAX_STARTS} times"
    assert failure["log"][-1] == "out of memory"


def test_a_new_runner_waits_for_units_of_a_killed_one(runner):
    made = runner("time.sleep(1)")
    unit = made.study.units[0]
    made._start(unit, folders(made)[0])  # and then this runner is gone
    again = runner("time.sleep(1)")
    again.run([unit])
    folder = folders(made)[0]
    assert folder.state is State.FINISHED
    assert folder.read(folder.starts_file) == {"starts": 1}


def test_what_other_code_left_unfinished_is_removed(runner):
    body = "(folder / 'stage_1').mkdir(exist_ok=True); os.kill(os.getpid(), 15)"
    made = runner(body)
    made._start(made.study.units[0], folders(made)[0])
    folder = folders(made)[0]
    wait_until(lambda: folder.state is State.INTERRUPTED)
    assert (folder.path / "stage_1").is_dir()
    runner("", commit="abc").run(made.study.units[:1])
    assert (folder.path / "stage_1").is_dir()  # of the same commit: it resumes
    folder.result_file.unlink()
    runner("", commit="def").run(made.study.units[:1])
    assert not (folder.path / "stage_1").exists()
    assert folder.read(folder.result_file) == {"commit": "def"}


def test_units_without_their_inputs_wait(runner, tmp_path):
    made = runner("")
    (tmp_path / "encoders/convnext-nano-384").rmdir()
    made.run(made.study.units)
    assert {folder.state for folder in folders(made)} == {State.OPEN}


def test_a_lock_of_a_process_id_that_is_used_again_is_free(tmp_path):
    folder = UnitFolder(tmp_path)
    folder.lock_file.write_text(str(os.getpid()))
    assert not folder.is_locked()
    folder.signal(signal.SIGKILL)  # would end this test
    assert folder.state is State.OPEN

"""A whole study of tiny models: killed five times it has the results of an undisturbed one."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from playground.ablation.execution.runner import PAUSE_FILE, unit_folder
from playground.ablation.execution.unit_folder import State
from playground.ablation.study import read_study
from tests.playground.ablation.conftest import TINY_STUDY

pytestmark = [
    pytest.mark.process,
    pytest.mark.slow,
    pytest.mark.skipif("MGM_LONG_TESTS" not in os.environ, reason="minutes; set MGM_LONG_TESTS=1"),
]
ROOT = Path(__file__).parents[3]
KILLS, LIMIT = 5, 900  # seconds


class Runs:
    """Runs a study into one output folder from command lines, as users do."""

    def __init__(self, folder: Path, inputs: Path, study: Path) -> None:
        self.out, self.results = folder / "out", folder / "results"
        self.study = study
        self.options = ["--study", study, "--out", self.out, "--root", inputs]
        self.options += ["--in-place", "--slots", "2", "--results", self.results]

    def command(self, action: str, *more: object) -> list[str]:
        words = (action, *self.options, *more)
        return [sys.executable, "-m", "playground.ablation", *map(str, words)]

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.command("--run"), cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL
        )

    def output(self, action: str) -> str:
        done = subprocess.run(
            self.command(action), cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def units(self):
        return {u.name: unit_folder(self.out, u) for u in read_study(self.study).units}

    def finish(self) -> None:
        assert self.start().wait(LIMIT) == 0
        states = {name: folder.state for name, folder in self.units().items()}
        logs = {n: f.last_lines(20) for n, f in self.units().items() if f.state is State.FAILED}
        assert set(states.values()) == {State.FINISHED}, logs

    def collected(self) -> dict[str, bytes]:
        """The results of units, without times and counts of starts."""
        self.output("--report")
        contents = {}
        for file in (self.results / "items").glob("*.json"):
            contents[file.name] = file.read_bytes()
        for name, folder in self.units().items():
            contents[name] = (folder.path / "answers.jsonl").read_bytes()
            contents[f"{name} cost"] = (folder.path / "cost.json").read_bytes()
            contents[f"{name} model"] = (folder.path / "stage_2/model.safetensors").read_bytes()
        return contents


def finish_times(runs: Runs) -> dict[str, int]:
    files = {name: folder.result_file for name, folder in runs.units().items()}
    return {name: file.stat().st_mtime_ns for name, file in files.items() if file.exists()}


def groups(runs: Runs) -> list[int]:
    """Process groups of the units that run."""
    running = [folder for folder in runs.units().values() if folder.is_locked()]
    return [folder.group for folder in running if folder.group is not None]


def members(group: int) -> list[int]:
    contents = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[2]) == group:
                contents.append(int(stat.parent.name))
        except OSError:
            continue
    return contents


def progress(runs: Runs) -> set[Path]:
    """Files that appear while units run: finished phases, checkpoints and parts of them."""
    patterns = ("*/*/*/phases.json", "*/*/*/stage_*/*checkpoint-*", "*/*/*/evaluation/answers/*")
    return {path for pattern in patterns for path in (runs.out / "units").glob(pattern)}


def kill_all(processes: list[int]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def kill_something(runs: Runs, runner: subprocess.Popen[bytes], draw: random.Random) -> str:
    """SIGKILL the runner, one process of a unit, a unit, or everything, soon after new files."""
    before, deadline = progress(runs), time.monotonic() + LIMIT
    while progress(runs) <= before and runner.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(draw.uniform(0, 4))
    what = draw.choice(["runner", "process", "unit", "everything"])
    units = groups(runs)
    if what in ("process", "unit") and units:
        processes = members(draw.choice(units))
        kill_all([draw.choice(processes)] if what == "process" else processes)
        time.sleep(draw.uniform(0, 3))  # the runner may notice
    elif what == "everything":
        kill_all([process for group in units for process in members(group)])
    os.kill(runner.pid, signal.SIGKILL)
    runner.wait()
    return what


@pytest.fixture
def study_file(tmp_path):
    file = tmp_path / "study.toml"
    file.write_text(TINY_STUDY)
    return file


def test_killed_studies_end_with_the_same_results(tmp_path, tiny_inputs, study_file):
    straight = Runs(tmp_path / "straight", tiny_inputs, study_file)
    straight.finish()
    killed, draw = Runs(tmp_path / "killed", tiny_inputs, study_file), random.Random(5)
    ways = [kill_something(killed, killed.start(), draw) for _ in range(KILLS)]
    killed.finish()
    theirs, ours = straight.collected(), killed.collected()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == [], ways
    weights = [f for f in killed.out.rglob("*") if f.suffix in (".safetensors", ".bin", ".pt")]
    assert {file.parent.name for file in weights} == {"stage_2"}
    # An arm added in one line is listed, runs alone and is reported.
    line = """arms.A3 = { title = "a new arm", fusion = { mode = "one_query" }, config = { \
image_size_aux = 128, model_max_length = 256 } }\n"""
    study_file.write_text(line + TINY_STUDY)
    assert "S/A3/seed-1        open         a new arm" in straight.output("--list")
    assert "S            4     2       0" in straight.output("--forecast")
    before = finish_times(straight)
    straight.finish()
    assert before.items() < finish_times(straight).items()  # what had finished was not repeated
    assert "A3 a new arm" in straight.output("--report")


def test_paused_studies_go_on(tmp_path, tiny_inputs, study_file):
    runs = Runs(tmp_path, tiny_inputs, study_file)
    runner = runs.start()
    deadline = time.monotonic() + LIMIT
    while len(groups(runs)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "stopped 2 running unit(s)" in runs.output("--pause")
    time.sleep(2)
    logs = {name: folder.last_lines() for name, folder in runs.units().items()}
    time.sleep(5)
    assert {name: folder.last_lines() for name, folder in runs.units().items()} == logs
    assert (runs.out / PAUSE_FILE).exists()
    assert "2 unit(s) continue" in runs.output("--resume")
    assert runner.wait(LIMIT) == 0
    assert {folder.state for folder in runs.units().values()} == {State.FINISHED}

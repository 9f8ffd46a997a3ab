"""Process of a unit: trains, evaluates and writes result.json; resumes unfinished phases.

    python -m playground.ablation.execution.run_unit FOLDER LOCK_DESCRIPTOR

The runner starts it. A phase either writes its output atomically, or resumes by itself: training
from its last checkpoint, evaluation from cached responses.
"""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mgm.errors import MGMError, run_command
from playground.ablation.execution.runner import EXIT_INTERRUPTED, encoder_folders
from playground.ablation.execution.unit_folder import UnitFolder
from playground.ablation.study import HELD_OUT, TRAIN, Arm, Flags

BENCHMARK = "nano"
# Inputs of the report.
PROBE_FILE, ANSWERS_FILE, COST_FILE = "probe.json", "answers.jsonl", "cost.json"
EVALUATION = Path("evaluation", BENCHMARK, "held_out", "paper")
# Training resumes from the last checkpoint; a kill loses about three minutes at most.
CHECKPOINTS = {"save_strategy": "steps", "save_steps": 50, "save_total_limit": 1}
STAGES = {
    "stage_1": ("scripts/nano/train/stage_1.sh", "captions.json"),
    "stage_2": ("scripts/nano/train/stage_2.sh", "conversations.json"),
}


class InterruptedUnitError(Exception):
    """A process of the unit was killed; the unit can be restarted."""


def run_unit(folder: UnitFolder, lock: int) -> None:
    """Run the unfinished phases of a unit.

    Args:
        folder: folder of the unit, with its settings.
        lock: file descriptor of the folder's lock, which programs of the unit inherit.

    Raises:
        MGMError: a phase failed.
        InterruptedUnitError: a program of the unit was killed.
    """
    settings = folder.read(folder.settings_file)
    paths = {name: Path(path) for name, path in settings["paths"].items()}
    phases = _Phases(folder, lock)
    if settings["size"]["probe"]:
        phases.run("probe", [*_module("probe"), str(folder.path)])
    else:
        phases.run("initial", [*_module("initial_model"), str(folder.path)])
        for stage in STAGES:
            phases.run(stage, training_command(stage, folder.path, settings, paths))
        phases.run("evaluation", _evaluation_command(folder.path, settings, paths["data"]))
        phases.run("answers", [*_module("answers"), str(folder.path)])
    result = {"settings": settings, "phases": phases.done}
    result |= {"cost": folder.read(folder.path / COST_FILE)}
    result |= folder.read(folder.starts_file)
    folder.write(folder.result_file, result)
    remove_weights(folder.path, settings["size"]["keep_model"])


def training_command(
    stage: str, folder: Path, settings: Mapping[str, Any], paths: Mapping[str, Path]
) -> list[str]:
    """Build the command of a training stage with the flags of the unit.

    Data order depends on the seed only, so that it is the same for all arms.

    Args:
        stage: key of `STAGES`.
        folder: folder of the unit.
        settings: settings of the unit.
        paths: folders of `data`, `language_model` and `encoders`.
    """
    data = paths["data"]
    script, records = STAGES[stage]
    before = {"stage_1": "initial", "stage_2": "stage_1"}[stage]
    flags: Flags = {
        "model_name_or_path": folder / before,
        "data_path": data / TRAIN / records,
        "image_folder": data / TRAIN / "images",
        "output_dir": folder / stage,
        "seed": settings["seed"],
        "data_seed": settings["seed"],
        "model_max_length": settings["arm"]["config"].get("model_max_length", 1024),
    }
    vit, convnext = encoder_folders(Arm(**settings["arm"]), paths["encoders"])
    if stage == "stage_1":  # the script has the encoders of the shipped model
        flags |= {"vision_tower": vit, "vision_tower_aux": convnext or "none"}
    flags |= CHECKPOINTS | settings["size"][stage]
    if convnext is None:
        flags.pop("optimize_vision_tower_aux", None)
    return ["bash", script, *_words(flags)]


def _words(flags: Flags) -> list[str]:
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def _evaluation_command(folder: Path, settings: Mapping[str, Any], data: Path) -> list[str]:
    """Build the command of the benchmark, with the arm's controls as ablations."""
    controls = settings["arm"]["controls"]
    return [
        *(sys.executable, "-m", "mgm.eval", "--model-path", str(folder / "stage_2")),
        *("--benchmark", BENCHMARK, "--data-dir", str(data / HELD_OUT)),
        *("--output-dir", str(folder / "evaluation")),
        *(("--ablate", *controls) if controls else ()),
    ]


def _module(name: str) -> list[str]:
    return [sys.executable, "-m", f"playground.ablation.execution.{name}"]


def remove_weights(folder: Path, keep_model: bool) -> None:
    """Delete checkpoints and models of a finished unit, but not JSON files and logs.

    Args:
        folder: folder of the unit.
        keep_model: whether to keep the model of stage 2.
    """
    for name in ("initial", "stage_1", "stage_2"):
        for path in (folder / name).glob("checkpoint-*"):
            shutil.rmtree(path)
        for path in (folder / name).rglob("*"):
            is_kept = path.suffix in (".json", ".jsonl", ".png") or (
                keep_model and name == "stage_2"
            )
            if path.is_file() and not is_kept:
                path.unlink()


class _Phases:
    """Runs the programs of phases in sequence, and records the CPU time of each."""

    def __init__(self, folder: UnitFolder, lock: int) -> None:
        self.folder, self.lock = folder, lock
        self.file = folder.path / "phases.json"
        self.done: dict[str, float] = folder.read(self.file)  # CPU seconds by phase

    def run(self, name: str, command: Sequence[str]) -> None:
        """Run a program, unless it succeeded in an earlier start of the unit."""
        if name in self.done:
            return
        print(f"--- {name}: {' '.join(command)}", flush=True)
        before = _cpu_seconds()
        status = subprocess.run(command, pass_fds=(self.lock,), check=False).returncode
        killed = status < 0 or status in (128 + 9, 128 + 15)  # as a shell reports SIGKILL, SIGTERM
        if killed:
            raise InterruptedUnitError(f"{name}: was killed")
        if status:
            raise MGMError(f"{name}: exit status {status}; see the lines above")
        self.done[name] = round(_cpu_seconds() - before, 1)
        self.folder.write(self.file, self.done)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    """Run the unit whose folder is the first argument; returns the exit status."""
    folder, lock = UnitFolder(Path(sys.argv[1])), int(sys.argv[2])
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpgrp()).encode())
    try:
        run_unit(folder, lock)
    except InterruptedUnitError as error:
        print(error, flush=True)
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    run_command(main)

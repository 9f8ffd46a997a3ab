"""Draws the data sets of a study, which all units share."""

import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from mgm.errors import MGMError
from playground.ablation.execution.checkout import Checkout
from playground.ablation.study import HELD_OUT, TRAIN

FOLDERS = {TRAIN: Path(TRAIN), HELD_OUT: Path(HELD_OUT, "nano")}  # nano: name of the benchmark


def draw_data(data: Mapping[str, str], out: Path, checkout: Checkout, workers: int) -> None:
    """Draw the training and held-out data below `out / "data"`, unless they are complete.

    Args:
        data: arguments of `playground.generate` for each data set.
        out: output folder of the study.
        checkout: code of the generator.
        workers: number of processes.

    Raises:
        MGMError: the generator failed, or a data set is missing from the study.
    """
    for name, folder in FOLDERS.items():
        if name not in data:
            raise MGMError(f"data: {name} is missing; give its arguments of playground.generate")
        command = [sys.executable, "-m", "playground.generate", *shlex.split(data[name])]
        command += ["--out", str(out / "data" / folder), "--workers", str(workers)]
        status = subprocess.run(
            command, cwd=checkout.folder, env=checkout.environment(), check=False
        ).returncode
        if status:
            raise MGMError(f"{shlex.join(command)}: exit status {status}; see the lines above")

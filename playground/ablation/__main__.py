"""Run the fusion experiments and report their results: python -m playground.ablation --help."""

import argparse
import fcntl
import logging
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from mgm.errors import MGMError, Parser, run_command, write_output
from playground.ablation.execution.checkout import current_checkout, worktree_at
from playground.ablation.execution.data import draw_data
from playground.ablation.execution.runner import (
    PAUSE_FILE,
    Runner,
    continue_units,
    missing_inputs,
    stop_units,
    unit_folder,
)
from playground.ablation.execution.unit_folder import State
from playground.ablation.forecast import forecast, forecast_table
from playground.ablation.study import STUDY_FILE, Study, Unit, read_study
from playground.arguments import count

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results")


def main() -> None:
    """Run the action that the command line selects."""
    options = parse_options()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    study = read_study(options.study)
    units = study.matching(options.only)
    if options.list:
        write_output("".join(f"{line}\n" for line in _lines(study, units, options)))
    elif options.forecast:
        write_output(forecast_table(forecast(units, options.out), options.slots))
    elif options.pause:
        stopped = stop_units(options.out, units)
        write_output(f"stopped {stopped} running unit(s); no other starts until --resume\n")
    elif options.resume:
        write_output(f"{continue_units(options.out, units)} unit(s) continue\n")
    elif options.report:
        from playground.ablation.report.report import write_report  # matplotlib is optional

        write_output(write_report(study, options.out, options.results))
    else:
        run(study, units, options)


def parse_options() -> argparse.Namespace:
    """Parse the command line.

    Raises:
        MGMError: an option is invalid.
    """
    parser = Parser(prog="python -m playground.ablation", description=__doc__.partition(":")[0])
    action = parser.add_mutually_exclusive_group(required=True)
    add = action.add_argument
    add("--list", action="store_true", help="list all units in run order, with their states")
    add("--run", action="store_true", help="run open units, and resume interrupted ones")
    add("--pause", action="store_true", help="stop all running units (SIGSTOP) until --resume")
    add("--resume", action="store_true", help="continue stopped units (SIGCONT)")
    add("--report", action="store_true", help="collect results; write tables and plots")
    add("--forecast", action="store_true", help="print the hours that open units will take")
    add = parser.add_argument
    add("--study", type=Path, default=STUDY_FILE, help="study file; default: %(default)s")
    add("--out", type=Path, default=ROOT / "work_dirs/ablation", help="folder for data and units")
    add("--only", default="*", metavar="PATTERN", help='filter units by name, as in "S/A1/*"')
    add("--slots", type=count, default=os.cpu_count() or 1, help="parallel units; default: cores")
    add("--commit", default="HEAD", help="commit to run, in a worktree; default: HEAD")
    add("--in-place", action="store_true", help="run the code of this folder, not of a worktree")
    add("--root", type=Path, default=ROOT, help="parent folder of the study's inputs")
    pause = f"stop units while this file or OUT/{PAUSE_FILE} exists"
    add("--pause-file", type=Path, action="append", default=[], help=pause)
    add("--retry-failed", action="store_true", help="with --run: run failed units again")
    add("--results", type=Path, default=RESULTS, help="folder for the report; default: %(default)s")
    options = parser.parse_args()
    for name in ("study", "out", "root", "results"):
        setattr(options, name, getattr(options, name).absolute())
    options.pause_file = [path.absolute() for path in options.pause_file]
    return options


def run(study: Study, units: list[Unit], options: argparse.Namespace) -> None:
    """Run units with the code of a commit; re-executes this program in its worktree.

    Raises:
        MGMError: another `--run` is active, an input is missing, or the data cannot be drawn.
    """
    if not options.in_place:
        options.out.mkdir(parents=True, exist_ok=True)
        checkout = worktree_at(ROOT, options.commit, options.out)
        arguments = [sys.executable, "-m", "playground.ablation", *sys.argv[1:], "--in-place"]
        arguments += ["--root", str(options.root), "--out", str(options.out)]
        if options.study != STUDY_FILE:
            arguments += ["--study", str(options.study)]
        for path in options.pause_file:
            arguments += ["--pause-file", str(path)]
        os.chdir(checkout.folder)
        os.execve(sys.executable, arguments, checkout.environment())
    inputs = _inputs(study, options)
    for unit in units:
        unit.arm.fusion_config()  # before hours of training
    with _single_run(options.out):
        if options.retry_failed:
            for unit in units:
                folder = unit_folder(options.out, unit)
                folder.failure_file.unlink(missing_ok=True)
                folder.starts_file.unlink(missing_ok=True)
        checkout = current_checkout(ROOT)
        draw_data(study.data, options.out, checkout, options.slots)
        write_output(forecast_table(forecast(units, options.out), options.slots))
        pause_files = [options.out / PAUSE_FILE, *options.pause_file]
        runner = Runner(study, options.out, checkout, inputs, options.slots, pause_files)
        runner.run(units)
    _summarize(units, options.out, inputs)


def _summarize(units: list[Unit], out: Path, inputs: dict[str, Path]) -> None:
    """Print failed units with their last log lines, and units with missing inputs."""
    for unit in units:
        folder = unit_folder(out, unit)
        if folder.state is State.FAILED:
            failure = folder.read(folder.failure_file)
            write_output(f"{unit.name}: failed: {failure['reason']}\n")
            write_output("".join(f"    {line}\n" for line in failure["log"]))
        elif folder.state is not State.FINISHED and (missing := missing_inputs(unit, inputs)):
            write_output(f"{unit.name}: not run: {missing[0]} does not exist\n")


def _inputs(study: Study, options: argparse.Namespace) -> dict[str, Path]:
    return {name: options.root / path for name, path in study.inputs.items()}


def _lines(study: Study, units: list[Unit], options: argparse.Namespace) -> list[str]:
    """Format the lines of --list."""
    inputs, lines = _inputs(study, options), []
    for unit in units:
        folder = unit_folder(options.out, unit)
        state, note = folder.state, ""
        if state is State.FAILED:
            note = folder.read(folder.failure_file)["reason"]
        elif state in (State.OPEN, State.INTERRUPTED) and missing_inputs(unit, inputs):
            note = f"missing {missing_inputs(unit, inputs)[0]}"
        title = f"{unit.name:<18} {state:<12} {unit.arm.title}"
        lines.append(f"{title} ({note})" if note else title)
    return lines


@contextmanager
def _single_run(out: Path) -> Generator[None]:
    """Hold the lock of the output folder.

    Raises:
        MGMError: another `--run` holds it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / "run.lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MGMError(f"{out}: another --run is active there; see --list") from error
        yield


if __name__ == "__main__":
    run_command(main)

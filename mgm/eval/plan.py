"""The tasks of a run: benchmarks with their questions, loaded from their files."""

import argparse
import logging
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mgm.errors import MGMError
from mgm.eval.harness.question import Question, SkippedQuestion
from mgm.eval.registry import expand_groups, resolve_benchmark
from mgm.eval.tasks.benchmark import Benchmark
from mgm.eval.tasks.files import MissingFileError

logger = logging.getLogger("mgm.eval")
DEFAULT_DATA_DIR = Path("data/MGM-Eval")  # default of --data-dir


@dataclass
class Task:
    """A benchmark to run, with its questions.

    Attributes:
        benchmark: benchmark to run.
        split: split of the benchmark.
        protocol: prompts and scoring rules: "paper", "lmms-eval", "vlmevalkit" or "official".
        questions: all questions of the split.
        selected: the questions to run, fewer than `questions` with --limit.
        skipped: records that could not be read as questions, and questions without a response.
    """

    benchmark: Benchmark
    split: str
    protocol: str
    questions: list[Question]
    selected: list[Question]
    skipped: list[SkippedQuestion]

    def folder(self, output: Path) -> Path:
        """The folder of its score and responses, below the output folder of a run."""
        return output / self.benchmark.name / self.split / self.protocol


def load_tasks(options: argparse.Namespace) -> dict[str, Task]:
    """Load the questions of all --benchmark; keys are `NAME:SPLIT`.

    Raises:
        MGMError: unknown benchmark, or its data is missing or damaged. Missing files of several
            benchmarks are reported together, with the `mgm.eval.prepare` command to run.
    """
    tasks: dict[str, Task] = {}
    missing: dict[str, MissingFileError] = {}
    for name in expand_groups(options.benchmark):
        try:
            task = _load_task(name, options)
        except MissingFileError as error:
            missing[name] = error
            continue
        tasks[f"{task.benchmark.name}:{task.split}"] = task
    if missing:
        raise MGMError(_prepare_advice(missing, options))
    return tasks


def _load_task(name: str, options: argparse.Namespace) -> Task:
    benchmark, split, protocol = resolve_benchmark(name, options.protocol)
    folder = benchmark.folder_in(options.data_dir)
    skipped: list[SkippedQuestion] = []
    questions = list(benchmark.questions(folder, split, protocol, skipped))
    if not questions:
        reason = f" ({skipped[0].id}: {skipped[0].reason})" if skipped else ""
        raise MGMError(f"{benchmark.name}: its file has no questions{reason}")
    for record in skipped:
        title = f"{benchmark.name}:{split}"
        logger.warning("%s: skipping %s: %s", title, record.id, record.reason)
    limit = options.max_new_tokens
    if limit is not None:
        questions = [replace(question, max_new_tokens=limit) for question in questions]
    return Task(benchmark, split, protocol, questions, questions[: options.limit], skipped)


def _prepare_advice(missing: Mapping[str, MissingFileError], options: argparse.Namespace) -> str:
    command = ["python", "-m", "mgm.eval.prepare", *missing]
    if options.protocol:
        command += ["--protocol", options.protocol]
    if options.data_dir != DEFAULT_DATA_DIR:
        command += ["--data-dir", str(options.data_dir)]
    first, *others = missing.values()
    also = f", and files of {len(others)} more benchmarks" if others else ""
    return (
        f"{first.description}{also}; {shlex.join(command)} downloads what it can and lists the "
        "files to add by hand"
    )

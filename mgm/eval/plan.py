"""What a run asks: benchmarks with their questions."""

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
DEFAULT_DATA_DIR = Path("data/MGM-Eval")  # folder of all benchmarks, unless --data names another


@dataclass
class Task:
    """What is asked of a benchmark.

    Attributes:
        kind: the benchmark.
        split: of it.
        protocol: by which is asked and scored.
        questions: all there are.
        asked: those that are asked.
        skipped: records that are no questions, and questions that could not be asked.
    """

    kind: Benchmark
    split: str
    protocol: str
    questions: list[Question]
    asked: list[Question]
    skipped: list[SkippedQuestion]

    def folder(self, output: Path) -> Path:
        """Where its score and answers go, below the output of a run."""
        return output / self.kind.name / self.split / self.protocol


def load_tasks(options: argparse.Namespace) -> dict[str, Task]:
    """Benchmarks with their questions, by the names with their splits.

    Raises:
        MGMError: there is no such benchmark, or its data is missing or damaged. All whose files
            are missing are named, with the command that prepares them.
    """
    tasks: dict[str, Task] = {}
    missing: dict[str, MissingFileError] = {}
    for name in expand_groups(options.benchmark):
        try:
            task = _task(name, options)
        except MissingFileError as error:
            missing[name] = error
            continue
        tasks[f"{task.kind.name}:{task.split}"] = task
    if missing:
        raise MGMError(_prepare_advice(missing, options))
    return tasks


def _task(name: str, options: argparse.Namespace) -> Task:
    kind, split, protocol = resolve_benchmark(name, options.protocol)
    skipped: list[SkippedQuestion] = []
    questions = list(kind.questions(kind.folder_in(options.data), split, protocol, skipped))
    if not questions:
        reason = f" ({skipped[0].id}: {skipped[0].reason})" if skipped else ""
        raise MGMError(f"{kind.name}: its file has no questions{reason}")
    for one in skipped:
        logger.warning("%s:%s, %s is left out: %s", kind.name, split, one.id, one.reason)
    if options.max_new_tokens is not None:
        limit = options.max_new_tokens
        questions = [replace(one, max_new_tokens=limit) for one in questions]
    return Task(kind, split, protocol, questions, questions[: options.limit], skipped)


def _prepare_advice(missing: Mapping[str, MissingFileError], options: argparse.Namespace) -> str:
    words = ["python", "-m", "mgm.eval.prepare", *missing]
    if options.protocol:
        words += ["--protocol", options.protocol]
    if options.data != DEFAULT_DATA_DIR:
        words += ["--data", str(options.data)]
    first, *others = missing.values()
    also = f", and files of {len(others)} more benchmarks" if others else ""
    return (
        f"{first.description}{also}; {shlex.join(words)} fetches what it can and says what "
        "belongs where"
    )

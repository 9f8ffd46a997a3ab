"""What a run asks: benchmarks with their questions."""

import argparse
import logging
from dataclasses import dataclass, replace

from mgm.errors import MGMError
from mgm.eval.harness.question import Question, SkippedQuestion
from mgm.eval.registry import benchmark, expanded
from mgm.eval.tasks.benchmark import PAPER, Benchmark

logger = logging.getLogger("mgm.eval")


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


def plan(options: argparse.Namespace) -> dict[str, Task]:
    """Benchmarks with their questions, by the names with their splits.

    Raises:
        MGMError: there is no such benchmark, or its data is missing or damaged.
    """
    tasks: dict[str, Task] = {}
    for kind, split in [benchmark(name, options.protocol) for name in expanded(options.benchmark)]:
        offered = kind.protocols_of(split) or [PAPER]
        protocol = options.protocol if options.protocol in offered else offered[0]
        kind.check(split, protocol)
        if options.protocol and protocol != options.protocol:
            logger.warning(
                "%s:%s has no protocol %s; %s is used", kind.name, split, options.protocol, protocol
            )
        skipped: list[SkippedQuestion] = []
        folder = kind.folder_in(options.data)
        questions = list(kind.questions(folder, split, protocol, skipped))
        if not questions:
            reason = f" ({skipped[0].id}: {skipped[0].reason})" if skipped else ""
            raise MGMError(f"{kind.name}: its file has no questions{reason}")
        for one in skipped:
            logger.warning("%s:%s, %s is left out: %s", kind.name, split, one.id, one.reason)
        if options.max_new_tokens is not None:
            limit = options.max_new_tokens
            questions = [replace(one, max_new_tokens=limit) for one in questions]
        asked = questions[: options.limit]
        tasks[f"{kind.name}:{split}"] = Task(kind, split, protocol, questions, asked, skipped)
    return tasks

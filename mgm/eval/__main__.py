"""Evaluate: python -m mgm.eval --model-path FOLDER --benchmark textvqa mme.

With torchrun, every process answers questions about other images, on a GPU of its own.
"""

import argparse
import logging
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mgm.engine.loading import load
from mgm.errors import MGMError, run_command, write_output
from mgm.eval.compare.comparison import compare_folders
from mgm.eval.compare.table import line, write_comparison
from mgm.eval.harness.llm_judge import Judge, ModelJudge
from mgm.eval.harness.models import Answerer, EndpointAnswerer, EngineAnswerer
from mgm.eval.harness.question import Answered, Question, SkippedQuestion
from mgm.eval.harness.response_cache import AnswerCache, model_digest, settings_name
from mgm.eval.harness.runner import answered, gather, run
from mgm.eval.options import SETTINGS, model_settings, parse
from mgm.eval.registry import BENCHMARKS, benchmark, expanded
from mgm.eval.report.examples import write_samples
from mgm.eval.report.report import table, write_report
from mgm.eval.report.run_info import data_info, known_model, run_info
from mgm.eval.report.score import Score, save_score
from mgm.eval.report.scoring import scored
from mgm.eval.tasks.benchmark import PAPER, Benchmark
from mgm.eval.tasks.predictions_file import read_answers

logger = logging.getLogger("mgm.eval")


@dataclass(frozen=True)
class Task:
    """A benchmark as this run asks it."""

    benchmark: Benchmark
    split: str
    protocol: str
    questions: list[Question]


def main(words: Sequence[str] | None = None) -> int:
    """Ask and score; returns the exit status."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    process, processes = (int(os.environ.get(name, default)) for name, default in (
        ("RANK", "0"), ("WORLD_SIZE", "1"),
    ))  # fmt: skip
    logging.getLogger("mgm").setLevel(logging.INFO if process == 0 else logging.WARNING)
    options = parse(words)
    if options.compare:
        return compare(options)
    tasks = _tasks(options)  # faults of the data are found before the model loads
    if options.dry_run:
        for name, task in tasks.items():
            write_output(f"{name}: {len(task.questions)} questions, protocol {task.protocol}\n")
        return 0
    title, deciding = model_settings(options)
    output = options.output or Path("work_dirs/eval") / title
    name = settings_name(options.model_path or title, deciding)
    cache = AnswerCache(output / "answers", name, process)
    model: dict[str, Any] = {"name": title, **deciding, "digest": _digest(options)}
    skipped: dict[str, list[SkippedQuestion]] = {}
    if not options.score_only and options.answers is None:
        answerer = _answerer(options, model)
        for name, task in tasks.items():
            progress = name if process == 0 else ""
            skipped[name] = run(task.questions, answerer, cache, process, processes, progress)
    questions = {name: task.questions for name, task in tasks.items()}
    skipped = gather(questions, skipped, cache, process, processes)
    if process:
        return 0
    judge: Judge = Judge()
    if options.judge:
        judge = ModelJudge(options.judge, options.judge_url, output / "judge.jsonl")
    scores = [
        _score(options, task, _answers(options, task, cache), judge, skipped[name], model, output)
        for name, task in tasks.items()
    ]
    write_report(output, title)
    write_output(table(scores, title))
    logger.info("report: %s", output / "report.html")
    if isinstance(judge, ModelJudge):
        usage = judge.usage
        logger.info(
            "the judge %s was asked %d times: %d tokens in prompts, %d in answers",
            judge.name, usage.requests, usage.prompt_tokens, usage.completion_tokens,
        )  # fmt: skip
    return 0


def compare(options: argparse.Namespace) -> int:
    """Print how models differ, and write it where --output says; returns the exit status.

    Raises:
        MGMError: nothing was scored of two models.
    """
    comparisons, problems = compare_folders(options.compare, BENCHMARKS, options.margin)
    for one in comparisons:
        write_output(f"{line(one)}\n")
    for problem in problems:
        logger.warning("not compared: %s", problem)
    if options.output is not None:
        write_comparison(options.output, comparisons, problems)
        logger.info("wrote %s", options.output)
    return 0 if comparisons else 1


def _answers(options: argparse.Namespace, task: Task, cache: AnswerCache) -> Sequence[Answered]:
    """Questions with their answers: those that the model gave, or those of --answers."""
    if options.answers is None:
        return answered(task.questions, cache)
    found = read_answers(options.answers, task.benchmark, task.questions)
    found.tell(options.answers)
    return found.answered


def _score(
    options: argparse.Namespace,
    task: Task,
    answers: Sequence[Answered],
    judge: Judge,
    skipped: Sequence[SkippedQuestion],
    model: Mapping[str, Any],
    output: Path,
) -> Score:
    """Score a benchmark, and write what its folder has of it."""
    kind, split, protocol = task.benchmark, task.split, task.protocol
    score = scored(
        kind, split, protocol, task.questions, answers, judge, skipped, options.strip_thinking
    )
    folder = output / kind.name / split / protocol
    folder.mkdir(parents=True, exist_ok=True)
    settings = {name: getattr(options, name) for name in SETTINGS}
    info = run_info(
        known_model(dict(model), folder / "score.json"),
        settings | {"answers": options.answers and str(options.answers)},
        data_info(kind, split, protocol, task.questions),
        answers,
    )
    score = replace(score, run=info)
    save_score(score, folder / "score.json")
    write_samples(folder, kind, score, answers)
    for path in kind.submission(answers, folder, split):
        logger.info("wrote %s", path)
    return score


def _tasks(options: argparse.Namespace) -> dict[str, Task]:
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
        questions = list(kind.questions(options.data / kind.folder, split, protocol))
        _check_ids(kind, questions)
        if options.max_new_tokens is not None:
            limit = options.max_new_tokens
            questions = [replace(one, max_new_tokens=limit) for one in questions]
        tasks[f"{kind.name}:{split}"] = Task(kind, split, protocol, questions[: options.limit])
    return tasks


def _check_ids(kind: Benchmark, questions: Sequence[Question]) -> None:
    counts = Counter(one.id for one in questions)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise MGMError(
            f"{kind.name}: {len(twice)} ids of questions come twice, such as {min(twice)!r}; "
            "the file is damaged"
        )
    if not questions:
        raise MGMError(f"{kind.name}: its file has no questions")


def _digest(options: argparse.Namespace) -> str | None:
    """Of the model's files; None: they are not here."""
    folder = options.model_path and Path(options.model_path)
    return model_digest(folder) if folder and folder.is_dir() else None


def _answerer(options: argparse.Namespace, model: dict[str, Any]) -> Answerer:
    """The back end; what is known of the model when it is loaded goes into `model`."""
    if options.endpoint is not None:
        return EndpointAnswerer(options.endpoint, options.model, options.batch_size)
    device = options.device
    if device is None and "LOCAL_RANK" in os.environ:
        import torch

        if torch.cuda.is_available():
            device = f"cuda:{os.environ['LOCAL_RANK']}"
    engine = load(
        options.model_path,
        device=device,
        dtype=options.dtype,
        quantize=options.quantize,
        base=options.model_base,
    )
    if options.conv_mode is not None:
        engine.use_template(options.conv_mode)
    model["device"] = str(engine.model.device)
    model["dtype"] = str(engine.model.dtype).removeprefix("torch.")
    model["conv_mode"] = options.conv_mode or engine.processor.conversation
    return EngineAnswerer(engine, options.batch_size)


if __name__ == "__main__":
    run_command(main)

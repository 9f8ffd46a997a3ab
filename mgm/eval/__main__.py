"""Evaluate: python -m mgm.eval --model-path FOLDER --benchmark textvqa mme.

With torchrun, every process answers questions about other images, on a GPU of its own.
"""

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mgm.atomic import NotWrittenError
from mgm.engine.loading import load
from mgm.errors import MGMError, run_command, write_output
from mgm.eval.compare.comparison import compare_folders
from mgm.eval.compare.table import line, write_comparison
from mgm.eval.harness.llm_judge import Judge, ModelJudge
from mgm.eval.harness.models import Answerer, EndpointAnswerer, EngineAnswerer
from mgm.eval.harness.question import Answered, Question, SkippedQuestion
from mgm.eval.harness.response_cache import AnswerCache, model_digest, settings_name
from mgm.eval.harness.runner import Shared, answered, gather, run
from mgm.eval.options import SETTINGS, model_settings, parse
from mgm.eval.registry import BENCHMARKS, benchmark, expanded
from mgm.eval.report.examples import write_samples
from mgm.eval.report.report import table, write_report
from mgm.eval.report.run_info import data_info, known_model, run_info
from mgm.eval.report.score import Score, write_files
from mgm.eval.report.scoring import scored
from mgm.eval.tasks.benchmark import PAPER, Benchmark
from mgm.eval.tasks.predictions_file import read_answers

logger = logging.getLogger("mgm.eval")
EXIT_FAILED = 2  # a benchmark could not be asked or scored; the others are reported


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
            write_output(f"{name}: {len(task.asked)} questions, protocol {task.protocol}\n")
        return 0
    title, deciding = model_settings(options)
    output = options.output or Path("work_dirs/eval") / title
    cache = AnswerCache(
        output / "answers", settings_name(options.model_path or title, deciding), process
    )
    model: dict[str, Any] = {"name": title, "digest": _digest(options), **deciding}
    failed: list[str] = []
    if not options.score_only and options.answers is None:
        answerer = _answerer(options, model)
        for name, task in tasks.items():
            bar = name if process == 0 else ""
            try:
                task.skipped += run(task.asked, answerer, cache, process, processes, bar)
            except NotWrittenError:
                raise
            except MGMError as error:  # what was answered is scored
                failed.append(f"{name}: {error}")
                break
    shared = {name: Shared(task.asked, task.skipped) for name, task in tasks.items()}
    gather(shared, failed, cache, process, processes)
    if process:
        return 0  # another status would have torchrun end the first, which reports
    judge: Judge = Judge()
    if options.judge:
        judge = ModelJudge(options.judge, options.judge_url, output / "judge.jsonl")
    scores: list[Score] = []
    for name, task in tasks.items():
        try:
            answers = _answers(task, cache, options)
            scores.append(_score(task, answers, judge, model, output, options))
        except NotWrittenError:
            raise
        except MGMError as error:
            failed.append(f"{name}: {error}")
    if not scores:
        raise MGMError("; ".join(failed))
    write_report(output, title)
    write_output(table(scores, title))
    logger.info("report: %s", output / "report.html")
    if isinstance(judge, ModelJudge):
        usage = judge.usage
        logger.info(
            "the judge %s was asked %d times: %d tokens in prompts, %d in answers",
            judge.name, usage.requests, usage.prompt_tokens, usage.completion_tokens,
        )  # fmt: skip
    for message in failed:
        logger.error("error: %s", message)
    return EXIT_FAILED if failed else 0


def compare(options: argparse.Namespace) -> int:
    """Print how models differ, and write it where --output says; returns the exit status.

    Raises:
        MGMError: nothing was scored of two models.
    """
    comparisons, problems = compare_folders(options.compare, BENCHMARKS, options.margin)
    for one in comparisons:
        write_output(f"{line(one)}\n")
    if options.output is not None:
        write_comparison(options.output, comparisons, problems)
        logger.info("wrote %s", options.output)
    for problem in problems:
        logger.error("error: %s", problem)
    return EXIT_FAILED if problems else 0


def _answers(task: Task, cache: AnswerCache, options: argparse.Namespace) -> list[Answered]:
    """The answers to what is asked, from a file of another program or of this one's.

    Raises:
        MGMError: the file cannot be read, or is of other questions.
    """
    if options.answers is None:
        return answered(task.asked, cache)
    found = read_answers(options.answers, task.kind, task.questions)
    found.tell(options.answers)
    asked = {question.id for question in task.asked}
    return [answer for answer in found.answered if answer.question.id in asked]


def _score(
    task: Task,
    answers: Sequence[Answered],
    judge: Judge,
    model: Mapping[str, Any],
    output: Path,
    options: argparse.Namespace,
) -> Score:
    """Score a benchmark, and write what its folder has of it.

    Raises:
        MGMError: nothing can be scored, or a file cannot be written.
    """
    kind, split, protocol = task.kind, task.split, task.protocol
    folder = output / kind.name / split / protocol
    score = scored(
        *(kind, split, protocol, task.questions, answers, judge),
        skipped=task.skipped,
        without_thinking=options.strip_thinking,
    )
    settings = {name: getattr(options, name) for name in SETTINGS}
    run = run_info(
        known_model(dict(model), folder / "score.json"),
        settings | {"answers": options.answers and str(options.answers)},
        data_info(kind, split, protocol, task.asked),
        answers,
    )
    score = replace(score, run=run)
    written = write_files(kind, split, score, answers, folder)
    write_samples(folder, kind, score, answers)
    for path in written:
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

"""Evaluate: python -m mgm.eval --model-path FOLDER --benchmark textvqa mme.

With torchrun, every process answers questions about other images, on a GPU of its own.
"""

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgm.atomic import WriteError
from mgm.errors import MGMError, run_command, write_output
from mgm.eval.ablation.study import AblationStudy
from mgm.eval.compare.folders import compare_folders, scored_by_one
from mgm.eval.compare.table import line, write_comparison
from mgm.eval.harness.llm_judge import Judge, ModelJudge
from mgm.eval.harness.models import Answerer, EndpointAnswerer, EngineAnswerer
from mgm.eval.harness.question import Answered
from mgm.eval.harness.response_cache import AnswerCache, model_digest, settings_name
from mgm.eval.harness.runner import Shared, answered, gather, run
from mgm.eval.options import SETTINGS, model_settings, parse
from mgm.eval.plan import Task, plan
from mgm.eval.registry import BENCHMARKS
from mgm.eval.report.examples import write_samples
from mgm.eval.report.report import table, write_report
from mgm.eval.report.run_info import data_info, known_model, run_info
from mgm.eval.report.score import Score, warn_replaced, write_files
from mgm.eval.report.scoring import scored
from mgm.eval.tasks.predictions_file import read_answers
from mgm.model.files.hub import checkpoint_folder

if TYPE_CHECKING:
    from mgm.model.configuration_mgm import MGMConfig

logger = logging.getLogger("mgm.eval")
EXIT_FAILED = 2  # a benchmark could not be asked or scored; the others are reported


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
    tasks = plan(options)  # faults of the data are found before the model loads
    ablations = AblationStudy(options.ablate, tasks, lambda: _config(options))
    if options.dry_run:
        write_output("".join(map(ablations.forecast, tasks)))
        return 0
    title, deciding = model_settings(options)
    output = options.output or Path("work_dirs/eval") / title
    cache = AnswerCache(
        output / "answers", settings_name(options.model_path or title, deciding), process
    )
    model = _model(options, title) | deciding
    failed: list[str] = []
    if not options.score_only and options.answers is None:
        answerer = _answerer(options, model)
        failed += _ask(tasks, answerer, cache, process, processes)
        if not failed:
            failed += ablations.ask(answerer, cache, process, processes)
    shared = {name: Shared(task.asked, cache, task.skipped) for name, task in tasks.items()}
    gather(shared | ablations.shared(cache), failed, cache, process, processes)
    if process:
        return 0  # another status would have torchrun end the first, which reports
    judge: Judge = Judge()
    if options.judge:
        judge = ModelJudge(options.judge, options.judge_url, output / "judge.jsonl")
    scores = _score_all(tasks, cache, judge, model, output, options, failed)
    tables, errors = ablations.report(output, scores, cache, judge, options.strip_thinking)
    failed += errors
    write_report(output, title, next(iter(scores.values())).run)
    write_output(table(list(scores.values()), title) + tables)
    logger.info("report: %s", output / "report.html")
    if isinstance(judge, ModelJudge):
        usage = judge.usage
        logger.info(
            "the judge %s was asked %d times: %d tokens in prompts, %d in answers",
            judge.name, usage.requests, usage.prompt_tokens, usage.completion_tokens,
        )  # fmt: skip
        if judge.unavailable:
            failed.append(judge.unavailable)
    for message in dict.fromkeys(failed):
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
    unshared = scored_by_one(options.compare)
    for text in unshared:
        logger.warning("%s", text)
    if options.output is not None:
        write_comparison(options.output, comparisons, problems, unshared)
        logger.info("wrote %s", options.output)
    for problem in problems:
        logger.error("error: %s", problem)
    return EXIT_FAILED if problems else 0


def _ask(
    tasks: Mapping[str, Task],
    answerer: Answerer,
    cache: AnswerCache,
    process: int,
    processes: int,
) -> list[str]:
    """Have all questions answered; what cannot be is in each task's `skipped` afterwards.

    Returns:
        The error that ended it; what was answered before is scored.

    Raises:
        MGMError: an answer cannot be written.
    """
    for name, task in tasks.items():
        bar = name if process == 0 else ""
        try:
            task.skipped += run(task.asked, answerer, cache, process, processes, bar)
        except WriteError:
            raise
        except MGMError as error:
            return [f"{name}: {error}"]
    return []


def _score_all(
    tasks: Mapping[str, Task],
    cache: AnswerCache,
    judge: Judge,
    model: Mapping[str, Any],
    output: Path,
    options: argparse.Namespace,
    failed: list[str],
) -> dict[str, Score]:
    """Score what can be; errors of the others are added to `failed`.

    Raises:
        MGMError: nothing can be scored, or a file cannot be written.
    """
    scores: dict[str, Score] = {}
    for name, task in tasks.items():
        try:
            answers = _answers(task, cache, options)
            scores[name] = _score(task, answers, judge, model, output, options)
        except WriteError:
            raise
        except MGMError as error:
            failed.append(f"{name}: {error}")
    if not scores:
        raise MGMError("; ".join(failed))
    return scores


def _answers(task: Task, cache: AnswerCache, options: argparse.Namespace) -> list[Answered]:
    """The answers to what is asked, from a file of another program or of this one's.

    Raises:
        MGMError: the file cannot be read, or is of other questions.
    """
    if options.answers is None:
        return answered(task.asked, cache)
    found = read_answers(options.answers, task.kind, task.questions, task.protocol)
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
    folder = task.folder(output)
    score = scored(
        *(kind, split, protocol, task.questions, answers, judge),
        skipped=task.skipped,
        without_thinking=options.strip_thinking,
    )
    settings = {name: getattr(options, name) for name in SETTINGS}
    run = run_info(
        known_model(dict(model), folder / "score.json"),
        settings
        | {"answers": options.answers and str(options.answers)}
        | ({"temperature": "the server's default"} if score.counts["sampled"] else {}),
        data_info(kind, split, protocol, kind.folder_in(options.data), task.questions),
        answers,
    )
    score = replace(score, run=run)
    warn_replaced(folder / "score.json", score)
    written = write_files(kind, split, score, answers, folder)
    write_samples(folder, kind, score, answers, options.strip_thinking)
    for path in written:
        logger.info("wrote %s", path)
    return score


def _config(options: argparse.Namespace) -> "MGMConfig":
    """The config of the model in --model-path, without its weights.

    Raises:
        MGMError: there is no model, or it is damaged.
    """
    from mgm.model.checkpoint.checkpoint import checkpoint_config

    return checkpoint_config(checkpoint_folder(options.model_path), options.model_base)


def _model(options: argparse.Namespace, title: str) -> dict[str, Any]:
    """What is known of the model before it is loaded."""
    folder = Path(options.model_path or "")
    digest = model_digest(folder) if options.model_path and folder.is_dir() else None
    return {"name": title, "path": options.model_path, "digest": digest}


def _answerer(options: argparse.Namespace, model: dict[str, Any]) -> Answerer:
    """The back end; what is known of the model when it is loaded goes into `model`."""
    if options.endpoint is not None:
        return EndpointAnswerer(options.endpoint, options.model, options.batch_size)
    import torch

    from mgm.engine.loading import load
    from mgm.engine.scheduler.config import SchedulerConfig

    device = options.device
    if device is None and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    engine = load(
        options.model_path,
        device=device,
        dtype=options.dtype,
        quantize=options.quantize,
        base=options.model_base,
        scheduler_config=SchedulerConfig.offline(options.batch_size),
    )
    if options.conv_mode is not None:
        engine.use_template(options.conv_mode)
    model["device"] = str(engine.model.device)
    model["dtype"] = str(engine.model.dtype).removeprefix("torch.")
    model["conv_mode"] = options.conv_mode or engine.processor.conversation
    return EngineAnswerer(engine, options.batch_size)


if __name__ == "__main__":
    run_command(main)

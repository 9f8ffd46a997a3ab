"""Evaluate a model on benchmarks: python -m mgm.eval --model-path FOLDER --benchmark textvqa mme.

Data parallel with torchrun: each rank runs the questions about its share of the images.
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
from mgm.eval.compare.table import comparison_line, write_comparison
from mgm.eval.harness.llm_judge import Judge, ModelJudge
from mgm.eval.harness.models import EndpointModel, EngineModel, Model
from mgm.eval.harness.question import Response
from mgm.eval.harness.response_cache import ResponseCache, model_digest, model_key
from mgm.eval.harness.runner import (
    BenchmarkResponses,
    cached_responses,
    gather,
    generate_responses,
)
from mgm.eval.options import SCORE_SETTINGS, model_settings, parse_args
from mgm.eval.plan import Task, load_tasks
from mgm.eval.registry import BENCHMARKS
from mgm.eval.report.examples import write_samples
from mgm.eval.report.markdown_tables import scores_table
from mgm.eval.report.report import write_report
from mgm.eval.report.run_info import data_info, merge_model_info, run_info
from mgm.eval.report.score import Score, warn_if_replaced, write_score_files
from mgm.eval.report.scoring import score_responses
from mgm.eval.tasks.predictions_file import match_predictions
from mgm.model.files.hub import checkpoint_folder

if TYPE_CHECKING:
    from mgm.model.configuration_mgm import MGMConfig

logger = logging.getLogger("mgm.eval")
EXIT_FAILED = 2  # a benchmark could not be run or scored; the others are in the report


def main(arguments: Sequence[str] | None = None) -> int:
    """Generate responses, score them, write the report; returns the exit status."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    rank = int(os.environ.get("RANK", "0"))
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    logging.getLogger("mgm").setLevel(logging.INFO if rank == 0 else logging.WARNING)
    options = parse_args(arguments)
    if options.compare:
        return compare(options)
    tasks = load_tasks(options)  # before the model: errors in the data come early
    ablations = AblationStudy(options.ablate, tasks, lambda: _config(options))
    if options.dry_run:
        write_output("".join(map(ablations.forecast, tasks)))
        return 0
    model_name, settings = model_settings(options)
    output = options.output_dir or Path("work_dirs/eval") / model_name
    key = model_key(options.model_path or model_name, settings)
    cache = ResponseCache(output / "answers", key, rank)
    model_info = _model_info(options, model_name) | settings
    failed: list[str] = []
    if not options.score_only and options.predictions is None:
        model = _load_model(options, model_info)
        failed += _generate(tasks, model, cache, rank, world_size)
        if not failed:
            failed += ablations.generate(model, cache, rank, world_size)
    own = {
        name: BenchmarkResponses(task.selected, cache, task.skipped) for name, task in tasks.items()
    }
    gather(own | ablations.benchmark_responses(cache), failed, cache, rank, world_size)
    if rank:
        return 0  # otherwise torchrun would kill rank 0 before its report
    judge: Judge = Judge()
    if options.judge:
        judge = ModelJudge(options.judge, options.judge_url, output / "judge.jsonl")
    scores = _score_all(tasks, cache, judge, model_info, output, options, failed)
    tables, errors = ablations.report(output, scores, cache, judge, options.strip_thinking)
    failed += errors
    write_report(output, model_name, next(iter(scores.values())).run)
    write_output(scores_table(list(scores.values()), model_name) + tables)
    logger.info("report: %s", output / "report.html")
    if isinstance(judge, ModelJudge):
        _log_judge(judge, failed)
    for message in dict.fromkeys(failed):
        logger.error("error: %s", message)
    return EXIT_FAILED if failed else 0


def compare(options: argparse.Namespace) -> int:
    """Print how models differ, and write it to --output-file; returns the exit status.

    Raises:
        MGMError: no benchmark was scored for two of the models.
    """
    comparisons, problems = compare_folders(options.compare, BENCHMARKS, options.margin)
    for comparison in comparisons:
        write_output(f"{comparison_line(comparison)}\n")
    unshared = scored_by_one(options.compare)
    for text in unshared:
        logger.warning("%s", text)
    if options.output_file is not None:
        write_comparison(options.output_file, comparisons, problems, unshared)
        logger.info("wrote %s", options.output_file)
    for problem in problems:
        logger.error("error: %s", problem)
    return EXIT_FAILED if problems else 0


def _generate(
    tasks: Mapping[str, Task], model: Model, cache: ResponseCache, rank: int, world_size: int
) -> list[str]:
    """Generate the responses of all tasks; failed questions are added to `Task.skipped`.

    Returns:
        The error that stopped generation, if any; earlier responses are still scored.

    Raises:
        MGMError: a response cannot be written.
    """
    for name, task in tasks.items():
        title = name if rank == 0 else ""
        try:
            task.skipped += generate_responses(task.selected, model, cache, rank, world_size, title)
        except WriteError:
            raise
        except MGMError as error:
            return [f"{name}: {error}"]
    return []


def _score_all(
    tasks: Mapping[str, Task],
    cache: ResponseCache,
    judge: Judge,
    model_info: Mapping[str, Any],
    output: Path,
    options: argparse.Namespace,
    failed: list[str],
) -> dict[str, Score]:
    """Score all tasks; errors of single tasks are added to `failed`.

    Raises:
        MGMError: no task can be scored, or a file cannot be written.
    """
    scores: dict[str, Score] = {}
    for name, task in tasks.items():
        try:
            responses = _responses(task, cache, options)
            scores[name] = _score(task, responses, judge, model_info, output, options)
        except WriteError:
            raise
        except MGMError as error:
            failed.append(f"{name}: {error}")
    if not scores:
        raise MGMError("; ".join(failed))
    return scores


def _responses(task: Task, cache: ResponseCache, options: argparse.Namespace) -> list[Response]:
    """The responses to the selected questions, from --predictions or the cache.

    Raises:
        MGMError: the predictions cannot be read, or do not match the questions.
    """
    if options.predictions is None:
        return cached_responses(task.selected, cache)
    match = match_predictions(options.predictions, task.benchmark, task.questions, task.protocol)
    match.log_problems(options.predictions)
    selected = {question.id for question in task.selected}
    return [response for response in match.responses if response.question.id in selected]


def _score(
    task: Task,
    responses: Sequence[Response],
    judge: Judge,
    model_info: Mapping[str, Any],
    output: Path,
    options: argparse.Namespace,
) -> Score:
    """Score one task and write the files of its folder.

    Raises:
        MGMError: no response can be scored, or a file cannot be written.
    """
    benchmark, split, protocol = task.benchmark, task.split, task.protocol
    folder = task.folder(output)
    score = score_responses(
        *(benchmark, split, protocol, task.questions, responses, judge),
        skipped=task.skipped,
        without_thinking=options.strip_thinking,
    )
    settings: dict[str, Any] = {name: getattr(options, name) for name in SCORE_SETTINGS}
    settings["answers"] = options.predictions and str(options.predictions)
    if score.counts["sampled"]:
        settings["temperature"] = "the server's default"
    data_folder = benchmark.folder_in(options.data_dir)
    run = run_info(
        merge_model_info(dict(model_info), folder / "score.json"),
        settings,
        data_info(benchmark, split, protocol, data_folder, task.questions),
        responses,
    )
    score = replace(score, run=run)
    warn_if_replaced(folder / "score.json", score)
    written = write_score_files(benchmark, split, score, responses, folder)
    write_samples(folder, benchmark, score, responses, options.strip_thinking)
    for path in written:
        logger.info("wrote %s", path)
    return score


def _log_judge(judge: ModelJudge, failed: list[str]) -> None:
    """Log the token usage of the judge; if it became unavailable, add the error to `failed`."""
    usage = judge.usage
    logger.info(
        "judge %s: %d requests, %d prompt tokens, %d completion tokens",
        *(judge.name, usage.requests, usage.prompt_tokens, usage.completion_tokens),
    )
    if judge.unavailable:
        failed.append(judge.unavailable)


def _config(options: argparse.Namespace) -> "MGMConfig":
    """The config of the model in --model-path, without loading weights.

    Raises:
        MGMError: there is no model, or it is damaged.
    """
    from mgm.model.checkpoint.checkpoint import checkpoint_config

    return checkpoint_config(checkpoint_folder(options.model_path), options.model_base)


def _model_info(options: argparse.Namespace, model_name: str) -> dict[str, Any]:
    """`model` of `run_info`, as far as it is known without loading the model."""
    folder = Path(options.model_path or "")
    digest = model_digest(folder) if options.model_path and folder.is_dir() else None
    return {"name": model_name, "path": options.model_path, "digest": digest}


def _load_model(options: argparse.Namespace, model_info: dict[str, Any]) -> Model:
    """Load the back end; device, dtype and template are added to `model_info`."""
    if options.endpoint is not None:
        return EndpointModel(options.endpoint, options.model, options.batch_size)
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
    model_info["device"] = str(engine.model.device)
    model_info["dtype"] = str(engine.model.dtype).removeprefix("torch.")
    model_info["conv_mode"] = options.conv_mode or engine.processor.conversation
    return EngineModel(engine, options.batch_size)


if __name__ == "__main__":
    run_command(main)

"""Evaluate: python -m mgm.eval --model-path FOLDER --benchmark textvqa mme.

With torchrun, every process answers questions about other images, on a GPU of its own.
"""

import argparse
import datetime
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mgm.atomic import NotWrittenError
from mgm.engine.loading import load
from mgm.errors import MGMError, Parser, run_command, write_output
from mgm.eval.harness.llm_judge import Judge, ModelJudge
from mgm.eval.harness.models import Answerer, EndpointAnswerer, EngineAnswerer
from mgm.eval.harness.question import Answered, Question, SkippedQuestion
from mgm.eval.harness.response_cache import AnswerCache, settings_name
from mgm.eval.harness.runner import answered, run, share
from mgm.eval.registry import BENCHMARKS, GROUPS, benchmark, expanded
from mgm.eval.report.report import compared, table, write_report
from mgm.eval.report.score import Score, load_score, scored, write_files
from mgm.eval.report.statistics import compare
from mgm.eval.tasks.benchmark import PAPER, PROTOCOLS, Benchmark
from mgm.eval.tasks.predictions_file import read_answers

logger = logging.getLogger("mgm.eval")
EXIT_FAILED = 2  # a benchmark could not be asked or scored; the others are reported


@dataclass
class _Asked:
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
        return compare_folders(*options.compare)
    asked = _asked(options)  # faults of the data are found before the model loads
    if options.dry_run:
        for name, one in asked.items():
            write_output(f"{name}: {len(one.asked)} questions, protocol {one.protocol}\n")
        return 0
    title, facts = _model_name(options)
    output = options.output or Path("work_dirs/eval") / title
    cache = AnswerCache(
        output / "answers", settings_name(options.model_path or title, facts), process
    )
    failed: list[str] = []
    if not options.score_only and options.answers is None:
        answerer = _answerer(options)
        for name, one in asked.items():
            bar = name if process == 0 else ""
            try:
                one.skipped += run(one.asked, answerer, cache, process, processes, bar)
            except NotWrittenError:
                raise
            except MGMError as error:  # what was answered is scored
                failed.append(f"{name}: {error}")
                break
    _collect(asked, failed, cache, process, processes)
    if process:
        return 0  # another status would have torchrun end the first, which reports
    judge: Judge = Judge()
    if options.judge:
        judge = ModelJudge(options.judge, options.judge_url, output / "judge.jsonl")
    scores: list[Score] = []
    said: dict[str, Sequence[Answered]] = {}
    for name, one in asked.items():
        try:
            said[name] = _answers(one, cache, options)
            scores.append(
                scored(
                    one.kind,
                    one.split,
                    one.protocol,
                    one.questions,
                    said[name],
                    judge,
                    skipped=one.skipped,
                    without_thinking=options.strip_thinking,
                )
            )
            folder = output / one.kind.name / one.split / one.protocol
            for path in write_files(one.kind, one.split, scores[-1], said[name], folder):
                logger.info("wrote %s", path)
        except NotWrittenError:
            raise
        except MGMError as error:
            failed.append(f"{name}: {error}")
    if not scores:
        raise MGMError("; ".join(failed))
    write_report(output, title, scores, said)
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


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line.

    Raises:
        MGMError: one of them is wrong.
    """
    parser = Parser(prog="python -m mgm.eval", description="Ask a model benchmarks' questions.")
    add = parser.add_argument
    add(
        "--benchmark",
        nargs="+",
        default=[],
        metavar="NAME[:SPLIT]",
        help=", ".join((*BENCHMARKS, *GROUPS)),
    )
    add("--model-path", metavar="FOLDER", help="the model, ours or a published one")
    add("--model-base", metavar="FOLDER", help="the language model under stage-1 or LoRA weights")
    add("--conv-mode", metavar="NAME", help="conversation template; default: the model's own")
    add("--device", help="cuda, cuda:1, mps or cpu; default: the fastest that is there")
    add("--dtype", help="float32, bfloat16 or float16; default: as fits the device")
    add("--quantize", metavar="KIND", help="int8, llm-int8 or int4")
    add(
        "--endpoint", metavar="URL", help="ask a server with the OpenAI API instead of a model here"
    )
    add("--model", metavar="NAME", help="of the model at the endpoint")
    add("--protocol", choices=PROTOCOLS, help=f"default: {PAPER}")
    add("--data", type=Path, default=Path("data/MGM-Eval"), metavar="FOLDER", help="of benchmarks")
    add("--output", type=Path, metavar="FOLDER", help="default: work_dirs/eval/MODEL")
    add("--batch-size", type=int, default=32, metavar="N", help="answers at once, default 32")
    add("--limit", type=int, metavar="N", help="ask the first N questions of each benchmark alone")
    add(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help="maximum tokens per answer; default: each benchmark's own",
    )
    add(
        "--strip-thinking",
        action="store_true",
        help="score answers without <think> blocks, as the protocol lmms-eval always does",
    )
    add("--dry-run", action="store_true", help="only say how many questions there are")
    add("--score-only", action="store_true", help="ask nothing; score the answers that are there")
    add("--answers", type=Path, metavar="FILE", help="score these answers of one benchmark")
    add("--judge", metavar="MODEL", help="scores free answers; default: rules")
    add("--judge-url", default="https://api.openai.com/v1", metavar="URL", help="of its endpoint")
    add("--compare", nargs=2, type=Path, metavar="FOLDER", help="two outputs, question by question")
    options = parser.parse_args(words)
    if options.compare:
        return options
    if not options.benchmark:
        raise MGMError(f"--benchmark: name some of {', '.join((*BENCHMARKS, *GROUPS))}")
    if options.answers is not None and len(expanded(options.benchmark)) != 1:
        raise MGMError("--answers: name the one --benchmark that they are of")
    if sum(one is not None for one in (options.endpoint, options.model_path, options.answers)) != 1:
        raise MGMError("give --model-path, or --endpoint with --model, or --answers")
    if options.endpoint is not None and options.model is None:
        raise MGMError("--endpoint: name the model there with --model")
    for name in ("batch_size", "limit", "max_new_tokens"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise MGMError(f"--{name.replace('_', '-')} {value}: give a number from 1")
    return options


def _asked(options: argparse.Namespace) -> dict[str, _Asked]:
    """What is asked, by the names of benchmarks with their splits.

    Raises:
        MGMError: there is no such benchmark, or its data is missing or damaged.
    """
    asked: dict[str, _Asked] = {}
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
        asked[f"{kind.name}:{split}"] = _Asked(
            kind, split, protocol, questions, questions[: options.limit], skipped
        )
    return asked


def _answers(one: _Asked, cache: AnswerCache, options: argparse.Namespace) -> list[Answered]:
    """The answers to what is asked, from a file of another program or of this one's.

    Raises:
        MGMError: the file cannot be read, or is of other questions.
    """
    if options.answers is None:
        return answered(one.asked, cache)
    found = read_answers(options.answers, one.kind, one.questions)
    found.tell(options.answers)
    asked = {question.id for question in one.asked}
    return [answer for answer in found.answered if answer.question.id in asked]


def compare_folders(first: Path, second: Path) -> int:
    """Print how two models differ, by what was scored of both; returns the exit status.

    Raises:
        MGMError: nothing was.
    """
    names = sorted(
        {path.relative_to(first) for path in first.rglob("score.json")}
        & {path.relative_to(second) for path in second.rglob("score.json")}
    )
    if not names:
        raise MGMError(f"{first} and {second}: no benchmark was scored of both by one protocol")
    for name in names:
        one, other = load_score(first / name), load_score(second / name)
        both = [key for key in one.credits if key in other.credits]
        if not both:
            continue
        found = compare(
            [one.credits[key] for key in both],
            [other.credits[key] for key in both],
            [one.groups[key] for key in both],
        )
        line = compared(first.name, second.name, f"{one.benchmark}, {one.scorer}", found)
        write_output(line + "\n")
    return 0


def _model_name(options: argparse.Namespace) -> tuple[str, dict[str, str | None]]:
    """What the model is called, and what besides its weights decides its answers."""
    if options.answers is not None:
        return options.model or options.answers.stem, {}
    if options.endpoint is not None:
        return Path(options.model).name, {"endpoint": options.endpoint, "model": options.model}
    names = ("model_base", "conv_mode", "dtype", "quantize")
    folder = Path(options.model_path)
    title = folder.resolve().name if folder.exists() else options.model_path.rsplit("/", 1)[-1]
    return title, {name: getattr(options, name) for name in names}


def _answerer(options: argparse.Namespace) -> Answerer:
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
    return EngineAnswerer(engine, options.batch_size)


def _collect(
    asked: dict[str, _Asked], failed: list[str], cache: AnswerCache, process: int, processes: int
) -> None:
    """Have the first process know the answers and faults of all, which may be on other machines.

    It waits for every process; one that ends in an error ends all, by torchrun.
    """
    if processes == 1:
        return
    import torch.distributed as dist

    # By question: files of a model on another machine may differ.
    own = {
        name: (
            {
                answer.question.id: answer.text
                for answer in answered(share(one.asked, process, processes), cache)
            },
            one.skipped if process else [],
        )
        for name, one in asked.items()
    }
    parts: list[Any] | None = [None] * processes if process == 0 else None
    dist.init_process_group("gloo", timeout=datetime.timedelta(days=7))
    dist.gather_object((own, failed if process else []), parts)
    dist.destroy_process_group()
    if parts is None:
        return
    cache.reload()
    failed += dict.fromkeys(message for _, messages in parts for message in messages)
    for name, one in asked.items():
        known = {skipped.id for skipped in one.skipped}
        for texts, skipped in (part[name] for part, _ in parts):
            one.skipped += [other for other in skipped if other.id not in known]
            for question in one.asked:
                if question.id in texts and cache.answer(question) is None:
                    cache.put(cache.key(question), texts[question.id])


if __name__ == "__main__":
    run_command(main)

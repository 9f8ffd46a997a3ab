"""Evaluate: python -m mgm.eval --model-path FOLDER --benchmark textvqa mme.

With torchrun, every process answers questions about other images, on a GPU of its own.
"""

import argparse
import datetime
import logging
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mgm.engine.loading import load
from mgm.errors import MGMError, Parser, run_command, write_output
from mgm.eval.ablation.ablation_run import AblationRun
from mgm.eval.ablation.ablations import NAMES as ABLATIONS
from mgm.eval.harness.llm_judge import Judge, ModelJudge
from mgm.eval.harness.models import Answerer, EndpointAnswerer, EngineAnswerer
from mgm.eval.harness.question import Answered, Question
from mgm.eval.harness.response_cache import AnswerCache, settings_name
from mgm.eval.harness.runner import answered, run, share
from mgm.eval.registry import BENCHMARKS, benchmark
from mgm.eval.report.report import compared, table, write_report
from mgm.eval.report.score import Score, load_score, save_score, scored
from mgm.eval.report.statistics import compare
from mgm.eval.tasks.benchmark import PAPER, PROTOCOLS, Benchmark
from mgm.eval.tasks.predictions_file import read_answers

logger = logging.getLogger("mgm.eval")
_Asked = tuple[Benchmark, str, str, list[Question]]  # with split and protocol


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
    ablations = AblationRun(options.ablate, asked)
    if options.dry_run:
        for name, (_, _, protocol, questions) in asked.items():
            write_output(f"{name}: {len(questions)} questions, protocol {protocol}\n")
        return 0
    title, facts = _model_name(options)
    output = options.output or Path("work_dirs/eval") / title
    cache = AnswerCache(
        output / "answers", settings_name(options.model_path or title, facts), process
    )
    if not options.score_only and options.answers is None:
        answerer = _answerer(options)
        ablations.check_model(answerer)
        for name, (_, _, _, questions) in asked.items():
            run(questions, answerer, cache, process, processes, name if process == 0 else "")
        ablations.ask(answerer, cache, process, processes)
    own = {name: (questions, cache) for name, (_, _, _, questions) in asked.items()}
    _collect(own | ablations.caches(cache), cache, process, processes)
    if process:
        return 0
    judge: Judge = Judge()
    if options.judge:
        judge = ModelJudge(options.judge, options.judge_url, output / "judge.jsonl")
    scores: list[Score] = []
    said: dict[str, Sequence[Answered]] = {}
    for name, (kind, split, protocol, questions) in asked.items():
        if options.answers is None:
            said[name] = answered(questions, cache)
        else:
            found = read_answers(options.answers, kind, questions)
            found.tell(options.answers)
            said[name] = found.answered
        scores.append(
            scored(kind, split, protocol, questions, said[name], judge, options.strip_thinking)
        )
        folder = output / kind.name / split / protocol
        folder.mkdir(parents=True, exist_ok=True)
        save_score(scores[-1], folder / "score.json")
        for path in kind.submission(said[name], folder, split):
            logger.info("wrote %s", path)
    write_report(output, title, scores, said)
    write_output(table(scores, title))
    by_name = dict(zip(asked, scores, strict=True))
    write_output(ablations.report(output, by_name, cache, judge, options.strip_thinking))
    logger.info("report: %s", output / "report.html")
    if isinstance(judge, ModelJudge):
        usage = judge.usage
        logger.info(
            "the judge %s was asked %d times: %d tokens in prompts, %d in answers",
            judge.name, usage.requests, usage.prompt_tokens, usage.completion_tokens,
        )  # fmt: skip
    return 0


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line.

    Raises:
        MGMError: one of them is wrong.
    """
    parser = Parser(prog="python -m mgm.eval", description="Ask a model benchmarks' questions.")
    add = parser.add_argument
    add("--benchmark", nargs="+", default=[], metavar="NAME[:SPLIT]", help=", ".join(BENCHMARKS))
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
    add(
        "--ablate",
        nargs="+",
        default=[],
        metavar="NAME",
        help="ask again with one part of the vision side changed, one NAME after the other: "
        f"{ABLATIONS}; a number follows a colon, as in blur:168",
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
        raise MGMError(f"--benchmark: name one or several of {', '.join(BENCHMARKS)}")
    if options.answers is not None and len(options.benchmark) != 1:
        raise MGMError("--answers: name the one --benchmark that they are of")
    if sum(one is not None for one in (options.endpoint, options.model_path, options.answers)) != 1:
        raise MGMError("give --model-path, or --endpoint with --model, or --answers")
    if options.ablate and options.model_path is None:
        raise MGMError("--ablate changes a model that runs here; give --model-path")
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
    for kind, split in [benchmark(name, options.protocol) for name in options.benchmark]:
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
        asked[f"{kind.name}:{split}"] = (kind, split, protocol, questions[: options.limit])
    return asked


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
    tasks: Mapping[str, tuple[Sequence[Question], AnswerCache]],
    cache: AnswerCache,
    process: int,
    processes: int,
) -> None:
    """Have the first process know the answers of all, which may be on other machines.

    It waits for every process; one that fails ends all, by torchrun.

    Args:
        tasks: questions and where their answers are, by name.
        cache: whose files they are in.
        process: the number of this one.
        processes: that shared the work.
    """
    if processes == 1:
        return
    import torch.distributed as dist

    # By question: a copy of the model on another machine has other keys.
    said = {}
    for name, (questions, answers) in tasks.items():
        own = answered(share(questions, process, processes), answers)
        said[name] = {one.question.id: one.text for one in own}
    parts: list[dict[str, dict[str, str]]] | None = None
    if process == 0:
        parts = [{} for _ in range(processes)]
    dist.init_process_group("gloo", timeout=datetime.timedelta(days=7))
    dist.gather_object(said, parts)
    dist.destroy_process_group()
    if parts is None:
        return
    cache.reload()
    for name, (questions, answers) in tasks.items():
        texts = dict(pair for part in parts for pair in part[name].items())
        for question in questions:
            if question.id in texts and answers.get(key := answers.key(question)) is None:
                answers.put(key, texts[question.id])


if __name__ == "__main__":
    run_command(main)

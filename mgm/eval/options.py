"""The options of python -m mgm.eval."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from mgm.errors import MGMError, Parser
from mgm.eval.ablation.ablations import NAMES as ABLATIONS
from mgm.eval.compare.comparison import MARGIN
from mgm.eval.registry import BENCHMARKS, GROUPS, benchmark, expanded
from mgm.eval.tasks.benchmark import PAPER, PROTOCOLS
from mgm.eval.tasks.dataset_source import Table

_LMMS_SAMPLES = re.compile(r"(\d{8}_\d{6}_)?samples_")
# Of the command line, what decides a score and is no part of the model; the report has them.
SETTINGS = ("limit", "max_new_tokens", "strip_thinking", "batch_size")


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line.

    Raises:
        MGMError: one of them is wrong.
    """
    parser = Parser(
        prog="python -m mgm.eval",
        description="Ask a model the questions of benchmarks, score its answers, compare models.",
    )
    _add_model(parser)
    _add_questions(parser)
    _add_scoring(parser)
    _add_comparing(parser)
    options = parser.parse_args(words)
    if options.compare:
        _check_comparing(options)
    else:
        _check_evaluation(options)
    return options


def model_settings(options: argparse.Namespace) -> tuple[str, dict[str, str | None]]:
    """What the model is called, and what besides its weights decides its answers."""
    if options.answers is not None:
        return options.model or _model_of(options.answers, options.benchmark[0]), {}
    if options.endpoint is not None:
        return Path(options.model).name, {"endpoint": options.endpoint, "model": options.model}
    names = ("model_base", "conv_mode", "dtype", "quantize")
    folder = Path(options.model_path)
    title = folder.resolve().name if folder.exists() else options.model_path.rsplit("/", 1)[-1]
    return title, {name: getattr(options, name) for name in names}


def _model_of(answers: Path, name: str) -> str:
    """The model's name in that of a file of answers, without what harnesses add to it.

    Source: `{model}_{dataset}` of VLMEvalKit's inference.py; lmms-eval's evaluation_tracker.py
    writes `DATE_samples_TASK` into a folder of the model's name.
    """
    if _LMMS_SAMPLES.match(answers.stem):
        return answers.resolve().parent.name
    kind, _ = benchmark(name)
    tables = {
        _plain(Path(one.name).stem) for one in kind.sources.values() if isinstance(one, Table)
    }
    ends = [n for n, character in enumerate(answers.stem) if character == "_" and n]
    return next(
        (answers.stem[:n] for n in ends if _plain(answers.stem[n:]) in tables), answers.stem
    )


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name)).casefold()


def _add_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add("--model-path", metavar="FOLDER", help="the model, ours or a published one")
    add("--model-base", metavar="FOLDER", help="the language model under stage-1 or LoRA weights")
    add("--conv-mode", metavar="NAME", help="conversation template; default: the model's own")
    add("--device", help="cuda, cuda:1, mps or cpu; default: the fastest that is there")
    add("--dtype", help="float32, bfloat16 or float16; default: as fits the device")
    add("--quantize", metavar="KIND", help="int8, llm-int8 or int4")
    add(
        "--endpoint", metavar="URL", help="ask a server with the OpenAI API instead of a model here"
    )
    add(
        "--model",
        metavar="NAME",
        help="of the model at the endpoint, or that wrote --answers "
        "(default: their file's name, without a data set's at its end)",
    )


def _add_questions(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("questions").add_argument
    add(
        "--benchmark",
        nargs="+",
        default=[],
        metavar="NAME[:SPLIT]",
        help=", ".join((*BENCHMARKS, *GROUPS)),
    )
    add("--protocol", choices=PROTOCOLS, help=f"default: {PAPER}")
    add("--data", type=Path, default=Path("data/MGM-Eval"), metavar="FOLDER", help="of benchmarks")
    add("--batch-size", type=int, default=32, metavar="N", help="answers at once, default 32")
    add("--limit", type=int, metavar="N", help="ask the first N questions of each benchmark alone")
    add(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help="maximum tokens per answer; default: each benchmark's own",
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


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("scoring").add_argument
    add(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="of answers, scores and the report, which grows with every run; default: "
        "work_dirs/eval/MODEL",
    )
    add("--score-only", action="store_true", help="ask nothing; score the answers that are there")
    add("--answers", type=Path, metavar="FILE", help="score these answers of one benchmark")
    add(
        "--strip-thinking",
        action="store_true",
        help="score answers without <think> blocks, as the protocol lmms-eval always does",
    )
    add("--judge", metavar="MODEL", help="scores free answers; default: rules")
    add("--judge-url", default="https://api.openai.com/v1", metavar="URL", help="of its endpoint")


def _add_comparing(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("comparing").add_argument
    add(
        "--compare",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="compare outputs of models with the first, on the questions that they share; --output "
        "names a .md, .html or .json file for it",
    )
    add(
        "--margin",
        type=float,
        default=MARGIN,
        metavar="POINTS",
        help="models within it, in per cent of the highest score, count as the same; default "
        f"{MARGIN:g}",
    )


def _check_comparing(options: argparse.Namespace) -> None:
    if len(options.compare) < 2:
        raise MGMError("--compare: name two or more folders, the baseline first")
    for folder in options.compare:
        if not folder.is_dir():
            raise MGMError(f"--compare: {folder} is no folder; name outputs of evaluations")
    if not 0 < options.margin < 100:
        raise MGMError(f"--margin {options.margin}: give a number between 0 and 100")
    if options.output is not None and options.output.suffix not in (".md", ".html", ".json"):
        raise MGMError(f"--output {options.output}: name a .md, .html or .json file")


def _check_evaluation(options: argparse.Namespace) -> None:
    if not options.benchmark:
        raise MGMError(f"--benchmark: name some of {', '.join((*BENCHMARKS, *GROUPS))}")
    if options.answers is not None and len(expanded(options.benchmark)) != 1:
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

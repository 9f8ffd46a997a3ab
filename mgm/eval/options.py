"""The options of python -m mgm.eval."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from mgm.errors import MGMError, Parser
from mgm.eval.ablation.definitions import ABLATION_HELP, check_ablation_names
from mgm.eval.compare.comparison import MARGIN
from mgm.eval.plan import DEFAULT_DATA_DIR
from mgm.eval.registry import BENCHMARK_GROUPS, BENCHMARKS, expand_groups, get_benchmark
from mgm.eval.tasks.benchmark import PROTOCOLS
from mgm.eval.tasks.dataset_source import Table

_LMMS_SAMPLES = re.compile(r"(\d{8}_\d{6}_)?samples_")
# Of the command line, what decides a score and is no part of the model; the report has them.
SCORE_SETTINGS = ("limit", "max_new_tokens", "strip_thinking", "batch_size")
# The options that have an effect beside the one that decides what is done.
_SCORING = {
    *("benchmark", "protocol", "data", "limit", "dry_run", "output", "score_only"),
    *("strip_thinking", "judge", "judge_url"),
}
_ASKING = _SCORING | {"batch_size", "max_new_tokens"}
_LOADING = {"model_base", "conv_mode", "device", "dtype", "quantize", "ablate"}
_USED = {
    "--model-path": _ASKING | _LOADING | {"model_path"},
    "--endpoint": _ASKING | {"endpoint", "model"},
    "--answers": _SCORING | {"answers", "model"},
    "--compare": {"compare", "margin", "output"},
}


def parse_args(words: Sequence[str] | None) -> argparse.Namespace:
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
    mode = _mode(options)
    _check_used(options, parser, mode)
    if mode == "--compare":
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
    kind, _ = get_benchmark(name)
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
    add(
        "--model-path",
        metavar="FOLDER",
        help="folder of the model, or its name on the hub",
    )
    add(
        "--model-base",
        metavar="FOLDER",
        help="folder of the language model that stage-1 or LoRA weights belong to",
    )
    add("--conv-mode", metavar="NAME", help="conversation template; default: the model's own")
    add("--device", help="cuda, cuda:1, mps or cpu; default: the fastest that is available")
    add("--dtype", help="float32, bfloat16 or float16; default: chosen for the device")
    add(
        "--quantize",
        metavar="KIND",
        help="store the language model's weights in fewer bits: int8, llm-int8 or int4",
    )
    add(
        "--endpoint",
        metavar="URL",
        help="ask a server with the OpenAI API, such as http://localhost:8000/v1, instead of "
        "loading a model",
    )
    add(
        "--model",
        metavar="NAME",
        help="with --endpoint: name of the model that the server is asked for; with --answers: "
        "name of the model in the report, by default that of the file",
    )


def _add_questions(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("questions").add_argument
    add(
        "--benchmark",
        nargs="+",
        default=[],
        metavar="NAME[:SPLIT]",
        help="benchmarks or groups of them: " + ", ".join((*BENCHMARKS, *BENCHMARK_GROUPS)),
    )
    add(
        "--protocol",
        choices=PROTOCOLS,
        help="rules by which questions are asked and answers are scored; default: the usual one of "
        "each benchmark, which is used with a warning where a benchmark does not have this one",
    )
    add(
        "--data",
        type=Path,
        default=DEFAULT_DATA_DIR,
        metavar="FOLDER",
        help=f"folder that holds the folders of benchmarks; default: {DEFAULT_DATA_DIR}",
    )
    add(
        "--batch-size",
        type=int,
        default=32,
        metavar="N",
        help="number of questions that are answered at the same time; default: 32",
    )
    add("--limit", type=int, metavar="N", help="ask only the first N questions of each benchmark")
    add(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help="maximum number of tokens of an answer; default: each benchmark's own",
    )
    add(
        "--ablate",
        nargs="+",
        default=[],
        metavar="NAME",
        help="ask all questions once more with each of these changes of the vision side: "
        f"{ABLATION_HELP}; a number follows a colon, as in blur:168",
    )
    add("--dry-run", action="store_true", help="only print how many questions there are")


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("scoring").add_argument
    add(
        "--output",
        type=Path,
        metavar="PATH",
        help="folder for answers, scores and the report, to which every run adds; default: "
        "work_dirs/eval/MODEL; with --compare: the .md, .html or .json file to write",
    )
    add(
        "--score-only",
        action="store_true",
        help="ask nothing, and score the answers that earlier runs have kept in --output",
    )
    add(
        "--answers",
        type=Path,
        metavar="FILE",
        help="score the answers to one benchmark that another program has written",
    )
    add(
        "--strip-thinking",
        action="store_true",
        help="score answers without their <think> blocks, as the protocol lmms-eval always does",
    )
    add(
        "--judge",
        metavar="MODEL",
        help="language model that scores free answers; default: rules, where a benchmark has them",
    )
    add(
        "--judge-url",
        default="https://api.openai.com/v1",
        metavar="URL",
        help="server with the OpenAI API that the judge is asked at; default: "
        "https://api.openai.com/v1",
    )


def _add_comparing(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("comparing").add_argument
    add(
        "--compare",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="compare the scores in these outputs of evaluations with those in the first, on the "
        "questions that both have answered; nothing is asked",
    )
    add(
        "--margin",
        type=float,
        default=MARGIN,
        metavar="POINTS",
        help="difference up to which two models count as the same, in per cent of the highest "
        f"possible score; default: {MARGIN:g}",
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
    if options.answers is not None and len(expand_groups(options.benchmark)) != 1:
        raise MGMError("--answers: name the one --benchmark that they are of")
    if options.endpoint is not None and options.model is None:
        raise MGMError("--endpoint: name the model there with --model")
    for name in ("batch_size", "limit", "max_new_tokens"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise MGMError(f"{_flag(name)} {value}: give a number from 1")
    check_ablation_names(options.ablate)


def _mode(options: argparse.Namespace) -> str:
    """The option that decides what the program does, one of `_USED`.

    Raises:
        MGMError: none or several of them are given, or no benchmark.
    """
    if options.compare:
        return "--compare"
    if not options.benchmark:
        raise MGMError(f"--benchmark: name some of {', '.join((*BENCHMARKS, *BENCHMARK_GROUPS))}")
    given = [name for name in _USED if name != "--compare" and getattr(options, _field(name))]
    if len(given) != 1:
        raise MGMError("give --model-path, or --endpoint with --model, or --answers")
    return given[0]


def _check_used(options: argparse.Namespace, parser: argparse.ArgumentParser, mode: str) -> None:
    """Raise an MGMError if an option is given that has no effect in a mode."""
    for name, value in vars(options).items():
        if name in _USED[mode] or value == parser.get_default(name):
            continue
        if _flag(name) in _USED:
            raise MGMError(f"{_flag(name)} and {mode} exclude each other; leave one out")
        modes = " or ".join(one for one, used in _USED.items() if name in used)
        raise MGMError(f"{_flag(name)} has no effect with {mode}, only with {modes}; leave it out")
    if options.judge is None and options.judge_url != parser.get_default("judge_url"):
        raise MGMError("--judge-url has no effect without --judge; name the model that judges")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _field(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")

"""Command line of `python -m mgm.eval`: options and the checks of their combinations."""

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
# Options that affect a score and do not belong to the model; listed in the report.
SCORE_SETTINGS = ("limit", "max_new_tokens", "strip_thinking", "batch_size")
# Options that have an effect in each mode; the mode is the option that selects it.
_SCORING = {
    *("benchmark", "protocol", "data_dir", "limit", "dry_run", "output_dir", "score_only"),
    *("strip_thinking", "judge", "judge_url"),
}
_GENERATING = _SCORING | {"batch_size", "max_new_tokens"}
_LOADING = {"model_base", "conv_mode", "device", "dtype", "quantize", "ablate"}
_MODES = {
    "--model-path": _GENERATING | _LOADING | {"model_path"},
    "--endpoint": _GENERATING | {"endpoint", "model"},
    "--predictions": _SCORING | {"predictions", "model"},
    "--compare": {"compare", "margin", "output_file"},
}


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse and check the command line.

    Raises:
        MGMError: an option is missing, invalid, or has no effect with the others.
    """
    parser = Parser(
        prog="python -m mgm.eval",
        description="Run benchmarks, score the responses of a model, compare models.",
    )
    _add_model(parser)
    _add_questions(parser)
    _add_scoring(parser)
    _add_comparing(parser)
    options = parser.parse_args(arguments)
    mode = _mode(options)
    _check_used(options, parser, mode)
    if mode == "--compare":
        _check_comparing(options)
    else:
        _check_evaluation(options)
    return options


def model_settings(options: argparse.Namespace) -> tuple[str, dict[str, str | None]]:
    """The model's name in the report, and its settings that affect responses."""
    if options.predictions is not None:
        return options.model or _model_name(options.predictions, options.benchmark[0]), {}
    if options.endpoint is not None:
        return Path(options.model).name, {"endpoint": options.endpoint, "model": options.model}
    names = ("model_base", "conv_mode", "dtype", "quantize")
    folder = Path(options.model_path)
    model_name = folder.resolve().name if folder.exists() else options.model_path.rpartition("/")[2]
    return model_name, {name: getattr(options, name) for name in names}


def _model_name(predictions: Path, benchmark_name: str) -> str:
    """The model's name, taken from the name of a predictions file as the harnesses write it.

    Source: `{model}_{dataset}` of VLMEvalKit's inference.py; lmms-eval's evaluation_tracker.py
    writes `DATE_samples_TASK` into a folder of the model's name.
    """
    stem = predictions.stem
    if _LMMS_SAMPLES.match(stem):
        return predictions.resolve().parent.name
    sources = get_benchmark(benchmark_name)[0].sources.values()
    datasets = {
        _alphanumeric(Path(source.name).stem) for source in sources if isinstance(source, Table)
    }
    ends = [n for n, character in enumerate(stem) if character == "_" and n]
    return next((stem[:n] for n in ends if _alphanumeric(stem[n:]) in datasets), stem)


def _alphanumeric(name: str) -> str:
    return "".join(filter(str.isalnum, name)).casefold()


def _add_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add(
        "--model-path",
        metavar="FOLDER",
        help="checkpoint folder, or model name on the Hugging Face hub",
    )
    add(
        "--model-base",
        metavar="FOLDER",
        help="base language model of stage-1 or LoRA weights",
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
        help="OpenAI-compatible server to evaluate instead of a local model, such as "
        "http://localhost:8000/v1",
    )
    add(
        "--model",
        metavar="NAME",
        help="with --endpoint: model name in requests; with --predictions: model name in the "
        "report, default: from the file name",
    )


def _add_questions(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("questions").add_argument
    add(
        "--benchmark",
        nargs="+",
        default=[],
        metavar="NAME[:SPLIT]",
        help="benchmarks or groups of benchmarks: " + ", ".join((*BENCHMARKS, *BENCHMARK_GROUPS)),
    )
    add(
        "--protocol",
        choices=PROTOCOLS,
        help="prompts and scoring rules; default: the default protocol of each benchmark, which is "
        "also the fallback, with a warning, for benchmarks without the given one",
    )
    add(
        "--data-dir",
        type=Path,
        default=DEFAULT_DATA_DIR,
        metavar="FOLDER",
        help=f"folder with a folder for each benchmark; default: {DEFAULT_DATA_DIR}",
    )
    add(
        "--batch-size",
        type=int,
        default=32,
        metavar="N",
        help="maximum running sequences, or concurrent requests to a server; default: 32",
    )
    add("--limit", type=int, metavar="N", help="run only the first N questions of each benchmark")
    add(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help="maximum tokens per response; default: set by each benchmark",
    )
    add(
        "--ablate",
        nargs="+",
        default=[],
        metavar="NAME",
        help="also run with each of these ablations of the vision side: "
        f"{ABLATION_HELP}; a number follows a colon, as in blur:168",
    )
    add("--dry-run", action="store_true", help="print the number of questions and exit")


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("scoring").add_argument
    add(
        "--output-dir",
        type=Path,
        metavar="FOLDER",
        help="folder of cached responses, scores and the report, shared by all runs of a model; "
        "default: work_dirs/eval/MODEL",
    )
    add(
        "--score-only",
        action="store_true",
        help="generate nothing; score the responses cached in --output-dir",
    )
    add(
        "--predictions",
        type=Path,
        metavar="FILE",
        help="score the predictions for one benchmark that VLMEvalKit, lmms-eval or another "
        "program has written",
    )
    add(
        "--strip-thinking",
        action="store_true",
        help="remove <think> blocks before scoring, as the protocol lmms-eval always does",
    )
    add(
        "--judge",
        metavar="MODEL",
        help="language model that scores free-form responses; default: rules, where a benchmark "
        "has them",
    )
    add(
        "--judge-url",
        default="https://api.openai.com/v1",
        metavar="URL",
        help="OpenAI-compatible server of the judge; default: https://api.openai.com/v1",
    )


def _add_comparing(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("comparing").add_argument
    add(
        "--compare",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="compare the scores in these output folders with those in the first, paired by "
        "question; generates nothing",
    )
    add(
        "--output-file",
        type=Path,
        metavar="FILE",
        help="with --compare: .md, .html or .json file to write",
    )
    add(
        "--margin",
        type=float,
        default=MARGIN,
        metavar="POINTS",
        help="equivalence margin: the difference up to which two models count as the same, in per "
        f"cent of the highest possible score; default: {MARGIN:g}",
    )


def _check_comparing(options: argparse.Namespace) -> None:
    if len(options.compare) < 2:
        raise MGMError("--compare: give two or more folders, the baseline first")
    for folder in options.compare:
        if not folder.is_dir():
            raise MGMError(
                f"--compare: {folder} is not a folder; give output folders of evaluations"
            )
    if not 0 < options.margin < 100:
        raise MGMError(f"--margin {options.margin}: give a number between 0 and 100")
    output = options.output_file
    if output is not None and output.suffix not in (".md", ".html", ".json"):
        raise MGMError(f"--output-file {output}: give a .md, .html or .json file")


def _check_evaluation(options: argparse.Namespace) -> None:
    if options.predictions is not None and len(expand_groups(options.benchmark)) != 1:
        raise MGMError("--predictions: give the one --benchmark that they belong to")
    if options.endpoint is not None and options.model is None:
        raise MGMError("--endpoint: give the name of the model there with --model")
    for name in ("batch_size", "limit", "max_new_tokens"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise MGMError(f"{_flag(name)} {value}: give a positive number")
    check_ablation_names(options.ablate)


def _mode(options: argparse.Namespace) -> str:
    """The option that selects the mode, a key of `_MODES`.

    Raises:
        MGMError: none or several of them are given, or no benchmark.
    """
    if options.compare:
        return "--compare"
    if not options.benchmark:
        raise MGMError(f"--benchmark: give some of {', '.join((*BENCHMARKS, *BENCHMARK_GROUPS))}")
    given = [name for name in _MODES if name != "--compare" and getattr(options, _field(name))]
    if len(given) != 1:
        raise MGMError("give --model-path, or --endpoint with --model, or --predictions")
    return given[0]


def _check_used(options: argparse.Namespace, parser: argparse.ArgumentParser, mode: str) -> None:
    """Raise an MGMError for an option that has no effect in the mode."""
    for name, value in vars(options).items():
        if name in _MODES[mode] or value == parser.get_default(name):
            continue
        if _flag(name) in _MODES:
            raise MGMError(f"{_flag(name)} and {mode} exclude each other; remove one")
        modes = " or ".join(flag for flag, used in _MODES.items() if name in used)
        raise MGMError(f"{_flag(name)} has no effect with {mode}, only with {modes}; remove it")
    if options.judge is None and options.judge_url != parser.get_default("judge_url"):
        raise MGMError("--judge-url has no effect without --judge; give the model that judges")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _field(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")

"""Command-line options that choose a model and how it is loaded."""

import argparse
from typing import TYPE_CHECKING, Any

from mgm.engine.scheduler.ngram_drafter import check_num_speculative_tokens
from mgm.errors import MGMError

if TYPE_CHECKING:
    from mgm.engine.engine import Engine


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Options of every program that loads a model."""
    add = parser.add_argument
    add("--model-path", required=True, metavar="FOLDER", help="native or published checkpoint")
    add("--model-base", metavar="FOLDER", help="base language model of stage-1 or LoRA weights")
    add("--conv-mode", metavar="NAME", help="conversation template; default: the model's own")
    add("--load-8bit", action="store_true", help="LLM.int8() quantisation (bitsandbytes)")
    add("--load-4bit", action="store_true", help="4-bit NF4 quantisation (bitsandbytes)")
    add(
        "--compile-decode",
        action="store_true",
        help="compile decode steps, with CUDA graphs; loading takes a minute longer",
    )
    add(
        "--num-speculative-tokens",
        type=int,
        default=0,
        metavar="N",
        help="n-gram speculative decoding: maximum draft tokens per sequence and step, drafted "
        "from earlier outputs; answers stay the same; default: %(default)s (off)",
    )


def check_model_options(options: argparse.Namespace) -> None:
    """Raise an MGMError if options contradict each other."""
    if options.load_8bit and options.load_4bit:
        raise MGMError("--load-8bit and --load-4bit exclude each other; choose one")
    check_num_speculative_tokens(options.num_speculative_tokens, "--num-speculative-tokens")


def load_from_options(options: argparse.Namespace, **more: Any) -> "Engine":
    """Load the model that the options choose.

    Args:
        options: parsed options of the command line.
        **more: further arguments of `mgm.load`.

    Raises:
        MGMError: the model cannot be loaded with these options, or `--conv-mode` is unknown.
    """
    from mgm.engine.loading import load

    quantize = "llm-int8" if options.load_8bit else "int4" if options.load_4bit else None
    engine = load(
        options.model_path,
        device=options.device,
        quantize=quantize,
        base=options.model_base,
        compile_decode=options.compile_decode,
        num_speculative_tokens=options.num_speculative_tokens,
        **more,
    )
    if options.conv_mode is not None:
        engine.use_template(options.conv_mode)
    return engine

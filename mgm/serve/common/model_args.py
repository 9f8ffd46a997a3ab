"""Options that say which model answers, and how it is loaded."""

import argparse
from typing import Any

from mgm.engine.engine import Engine
from mgm.engine.loading import load
from mgm.engine.scheduler.ngram_drafter import check_num_speculative_tokens
from mgm.errors import MGMError


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Options of every program that loads a model."""
    add = parser.add_argument
    add("--model-path", required=True, metavar="FOLDER", help="the model, ours or a published one")
    add("--model-base", metavar="FOLDER", help="the language model under stage-1 or LoRA weights")
    add("--conv-mode", metavar="NAME", help="conversation template; default: the model's own")
    add("--load-8bit", action="store_true", help="language model in 8 bits (bitsandbytes)")
    add("--load-4bit", action="store_true", help="language model in 4 bits (bitsandbytes)")
    add(
        "--compile-decoding",
        action="store_true",
        help="compile the steps that write a token, for a GPU; loads a minute longer",
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
    """Raise an MGMError if they contradict each other."""
    if options.load_8bit and options.load_4bit:
        raise MGMError("--load-8bit beside --load-4bit: choose one")
    check_num_speculative_tokens(options.num_speculative_tokens, "--num-speculative-tokens")


def load_model_of(options: argparse.Namespace, **more: Any) -> Engine:
    """The model that options name, on their device.

    Args:
        options: of the command line.
        **more: as for `mgm.load`.

    Raises:
        MGMError: it cannot be loaded so, or there is no such template.
    """
    quantize = "llm-int8" if options.load_8bit else "int4" if options.load_4bit else None
    engine = load(
        options.model_path,
        device=options.device,
        quantize=quantize,
        base=options.model_base,
        compile_decoding=options.compile_decoding,
        num_speculative_tokens=options.num_speculative_tokens,
        **more,
    )
    if options.conv_mode is not None:
        engine.use_template(options.conv_mode)
    return engine

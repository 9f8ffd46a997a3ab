"""The options of `python -m mgm.serve.cli`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mgm.errors import MGMError, Parser
from mgm.serve.common.model_args import add_model_options, check_model_options
from mgm.serve.tools.image_generation import SDXL


def parse_cli_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line of the chat.

    Raises:
        MGMError: an option is invalid.
    """
    parser = Parser(
        prog="python -m mgm.serve.cli",
        description="Chat with a Mini-Gemini model. An empty line or Ctrl-D ends the chat, Ctrl-C "
        "stops an answer, /help lists commands. When standard input is not a terminal, each line "
        "is a separate question, answered in one line.",
    )
    add_model_options(parser)
    add = parser.add_argument
    add(
        "--image-file",
        metavar="IMAGES",
        help="files or http(s) URLs, separated by commas; default: a text-only chat",
    )
    add("--device", choices=("cuda", "cpu", "mps"), help="default: the fastest available one")
    add(
        "--temperature",
        type=float,
        default=0.2,
        help="sampling temperature; 0: greedy; default 0.2",
    )
    add(
        "--max-new-tokens",
        type=int,
        default=512,
        metavar="N",
        help="maximum tokens per response, default 512",
    )
    add(
        "--debug",
        action="store_true",
        help="print the prompt, token counts and timings of each answer",
    )
    add("--seed", type=int, metavar="N", help="seed of sampling and image generation")
    add("--ocr", action="store_true", help="add the texts in the images to the prompt (OCR)")
    add("--gen", action="store_true", help="generate the images that the model asks for")
    add(
        "--gen-model",
        default=SDXL,
        metavar="FOLDER",
        help=f"text-to-image pipeline of diffusers, default {SDXL}",
    )
    add(
        "--output-file",
        type=Path,
        default=Path("generate.png"),
        metavar="FILE",
        help="file of generated images, default generate.png",
    )
    options = parser.parse_args(arguments)
    check_model_options(options)
    if options.ocr and options.image_file is None:
        raise MGMError("--ocr needs images; give --image-file")
    return options

"""Chat about images in a terminal, or answer the questions that come through a pipe.

python -m mgm.serve.cli --model-path playground/mgm-nano --image-file images/receipt.png
"""

import argparse
import io
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, TextIO

from PIL import Image
from transformers.utils import logging as transformers_logging

from mgm.data.images import open_image
from mgm.data.templates import get_template
from mgm.engine.engine import Engine, load
from mgm.engine.request import Request
from mgm.errors import MGMError, one_line, run_command
from mgm.serve.chat import Chat

USER, ASSISTANT = "USER", "ASSISTANT"
LATER = {
    "--model-base": "give a complete checkpoint with --model-path",
    "--load-8bit": "leave it out",
    "--load-4bit": "leave it out",
    "--ocr": "leave it out",
    "--gen": "leave it out",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    options = parse(arguments)
    # Faults of options and images are found before the model loads, which takes time.
    settings = Request("", temperature=options.temperature, max_new_tokens=options.max_new_tokens)
    if options.conv_mode is not None:
        get_template(options.conv_mode)
    images = open_images(options.image_file)
    started = time.perf_counter()
    engine = load_engine(options)
    chat = Chat(engine, images, settings, report if options.debug else None)
    if options.debug:
        report(f"loaded in {time.perf_counter() - started:.1f} s, {engine.model.device}")
    if sys.stdin.isatty():
        talk(chat)
    else:
        answer_lines(chat, sys.stdin)
    return 0


class Parser(argparse.ArgumentParser):
    """A parser whose faults end the program as all others do: in one line."""

    def error(self, message: str) -> NoReturn:
        raise MGMError(f"{message}; see --help")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line.

    Raises:
        MGMError: one of them is wrong.
    """
    parser = Parser(
        prog="python -m mgm.serve.cli",
        description="Chat with a Mini-Gemini model. An empty line or Ctrl-D ends the chat, Ctrl-C "
        "an answer. When standard input is not a terminal, each of its lines is answered in one "
        "line, in one conversation.",
    )
    add = parser.add_argument
    add("--model-path", required=True, metavar="FOLDER", help="the model, ours or a published one")
    add(
        "--image-file",
        metavar="IMAGES",
        help="files or http(s) URLs, separated by commas; without it the chat is text alone",
    )
    add("--device", choices=("cuda", "cpu", "mps"), help="default: the fastest that is there")
    add("--conv-mode", metavar="NAME", help="conversation template; default: the model's own")
    add("--temperature", type=float, default=0.2, help="0: always the likeliest word (default 0.2)")
    add(
        "--max-new-tokens",
        type=int,
        default=512,
        metavar="N",
        help="longest answer (default 512)",
    )
    add(
        "--debug", action="store_true", help="show prompt, token counts and times on standard error"
    )
    for flag in LATER:
        add(flag, nargs="?", const="", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for flag, remedy in LATER.items():
        if getattr(options, flag[2:].replace("-", "_")) is not None:
            raise MGMError(f"{flag} is not supported yet; {remedy}")
    return options


def open_images(names: str | None) -> list[Image.Image]:
    """The images that `--image-file` names.

    Raises:
        MGMError: one cannot be opened; says which.
    """
    sources = image_sources(names or "")
    return [
        open_image(source, f"image {index} of {len(sources)}")
        for index, source in enumerate(sources, start=1)
    ]


def image_sources(names: str) -> list[str]:
    """Split at commas, but not within a file's name or a URL that has some itself."""
    if names and Path(names).exists():
        return [names]
    sources: list[str] = []
    for piece in names.split(","):
        new = not sources or is_url(piece.strip()) or Path(piece).exists()
        if new or not is_url(sources[-1]):
            sources.append(piece.strip())
        else:
            sources[-1] += f",{piece}"
    return [source for source in sources if source]


def is_url(text: str) -> bool:
    """Whether `text` is a URL of an image."""
    return text.lower().startswith(("http://", "https://", "data:"))


def load_engine(options: argparse.Namespace) -> Engine:
    """The model, without a word from the libraries below it."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    engine = load(options.model_path, device=options.device)
    if options.conv_mode is not None:
        engine.use_template(options.conv_mode)
    return engine


def talk(chat: Chat) -> None:
    """Chat with the person at the terminal until an empty line or the end of the input."""
    with suppress(ImportError):  # not on Windows
        import readline  # noqa: F401  (gives `input` its line editing)
    while True:
        try:
            question = input(f"{USER}: ").strip()
        except (EOFError, KeyboardInterrupt):
            question = ""
            print()
        if not question:
            print("exit...")
            return
        print(f"{ASSISTANT}: ", end="", flush=True)
        pieces = chat.ask(question)
        begun = False
        try:
            for piece in pieces:
                text = piece if begun else piece.lstrip()
                begun = begun or bool(text)
                print(text, end="", flush=True)
        except KeyboardInterrupt:
            pieces.close()
            print(" [stopped]", end="")
        except MGMError as error:
            print()
            report(f"error: {one_line(error)}")
            continue
        print()


def answer_lines(chat: Chat, lines: TextIO) -> None:
    """Answer each line in one line."""
    for line in lines:
        if line.strip():
            print(one_line("".join(chat.ask(line.strip()))), flush=True)


def report(text: str) -> None:
    """Tell something that is no answer."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    run_command(main)

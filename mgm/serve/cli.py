"""Chat about images in a terminal, or answer the questions that come through a pipe.

python -m mgm.serve.cli --model-path playground/mgm-nano --image-file images/receipt.png
"""

import argparse
import io
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TextIO

from PIL import Image
from transformers.utils import logging as transformers_logging

from mgm.data.images import open_image
from mgm.data.templates import get_template
from mgm.engine.engine import Engine, load
from mgm.engine.request import Request
from mgm.errors import MGMError, Parser, one_line, run_command, write_output
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
    new_chat = partial(Chat, engine, images, settings, report)
    if options.debug:
        report(f"loaded in {time.perf_counter() - started:.1f} s, {engine.model.device}")
    lines = sys.stdin or io.StringIO()  # None where standard input was closed from the beginning
    if lines.isatty():
        talk(new_chat(), options.debug)
        return 0
    return answer_lines(new_chat, lines, options.debug)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line.

    Raises:
        MGMError: one of them is wrong.
    """
    parser = Parser(
        prog="python -m mgm.serve.cli",
        description="Chat with a Mini-Gemini model. An empty line or Ctrl-D ends the chat, Ctrl-C "
        "an answer. When standard input is not a terminal, each of its lines is a question of its "
        "own, answered in one line.",
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
    if names is None:
        return []
    sources = image_sources(names)
    if not sources:
        raise MGMError(
            f"--image-file is {names!r}, which names no image; give one, or leave it out"
        )
    return [
        open_image(source, f"image {index} of {len(sources)}")
        for index, source in enumerate(sources, start=1)
    ]


def image_sources(names: str) -> list[str]:
    """Split at commas, but not within a file's name or a URL that has some itself."""
    if is_there(names):
        return [names]
    sources: list[str] = []
    for piece in names.split(","):
        if sources and belongs(piece, sources[-1]):
            sources[-1] += f",{piece}"
        else:
            sources.append(piece.strip())
    return [source for source in sources if source]


def belongs(piece: str, source: str) -> bool:
    """Whether the comma between a source and what follows it is part of the source."""
    kind = source.split(":", 1)[0].lower()
    if kind == "data":
        return "," not in source  # its first one; the content has none
    following = piece.strip().lower().startswith(("http://", "https://", "data:"))
    return kind in ("http", "https") and not following and not is_there(piece)


def is_there(name: str) -> bool:
    """Whether there is a file or a folder of this name."""
    try:
        return bool(name) and Path(name).exists()
    except (OSError, ValueError):  # no name at all: too long, for instance
        return False


def load_engine(options: argparse.Namespace) -> Engine:
    """The model, without a word from the libraries below it."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    texts = options.image_file is None
    engine = load(options.model_path, device=options.device, text_only=texts)
    if options.conv_mode is not None:
        engine.use_template(options.conv_mode)
    return engine


def talk(chat: Chat, debug: bool) -> None:
    """Chat with the person at the terminal until an empty line or the end of the input."""
    with suppress(ImportError):  # not on Windows
        import readline  # noqa: F401  (gives `input` its line editing)
    while True:
        try:
            question = input(f"{USER}: ").strip()
        except (EOFError, KeyboardInterrupt):
            question = ""
            write_output("\n")
        if not question:
            write_output("exit...\n")
            return
        try:
            show(chat.ask(question))
            if debug:
                report(chat.details)
        except MGMError as error:
            report(f"error: {error}")


def show(pieces: Generator[str, None, None]) -> None:
    """Write an answer while it comes; an interrupt ends it."""
    write_output(f"{ASSISTANT}: ")
    begun = False
    try:
        with interrupts() as interrupted:
            for piece in pieces:
                text = piece if begun else piece.lstrip()
                begun = begun or bool(text)
                write_output(text)
                if interrupted.is_set():
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        pieces.close()
        write_output(" [stopped]")
    finally:
        write_output("\n")


@contextmanager
def interrupts() -> Generator[threading.Event]:
    """Note the first interrupt inside; the second, of someone who waits long, is raised at once.

    An exception that rises anywhere in a library can be lost there, a note cannot.
    """
    interrupted = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    earlier = signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, earlier)


def answer_lines(new_chat: Callable[[], Chat], lines: TextIO, debug: bool) -> int:
    """Answer each line in one line, in a conversation of its own; returns the exit status."""
    status = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            chat = new_chat()
            write_output(one_line("".join(chat.ask(line.strip()))) + "\n")
            if debug:
                report(chat.details)
        except MGMError as error:
            report(f"error: line {number}: {error}")
            status = 2
    return status


def report(text: str) -> None:
    """Tell something that is no answer."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    run_command(main)

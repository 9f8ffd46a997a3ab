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

from mgm.data.images.loading import open_image
from mgm.data.text.templates import get_template
from mgm.engine.core.request import Request
from mgm.engine.engine import Engine
from mgm.errors import MGMError, Parser, one_line, run_command, write_output
from mgm.serve.common.model_args import add_model_options, check_model_options, load_model_of
from mgm.serve.terminal.session import Session
from mgm.serve.tools.image_generation import SDXL, ImageGenerator
from mgm.serve.tools.ocr import load_ocr

USER, ASSISTANT = "USER", "ASSISTANT"
HISTORY = Path("~/.cache/mgm/history")  # of questions, for the next time


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    options = parse(arguments)
    # Faults of options and images are found before the model loads, which takes time.
    settings = Request(
        "",
        temperature=options.temperature,
        max_new_tokens=options.max_new_tokens,
        seed=options.seed,
    )
    if options.conv_mode is not None:
        get_template(options.conv_mode)
    images = open_images(options.image_file)
    reader = load_ocr() if options.ocr else None
    drawer = ImageGenerator(options.gen_model) if options.gen else None
    started = time.perf_counter()
    engine = load_engine(options)
    new_session = partial(
        Session,
        engine,
        settings,
        report,
        open_images,
        images,
        options.image_file,
        reader,
        drawer,
        options.output_file,
        options.seed,
    )
    if options.debug:
        report(f"loaded in {time.perf_counter() - started:.1f} s, {engine.model.device}")
    lines = sys.stdin or io.StringIO()  # None where standard input was closed from the beginning
    if lines.isatty():
        talk(new_session(), options.debug)
        return 0
    return answer_lines(new_session, lines, options.debug)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line.

    Raises:
        MGMError: one of them is wrong.
    """
    parser = Parser(
        prog="python -m mgm.serve.cli",
        description="Chat with a Mini-Gemini model. An empty line or Ctrl-D ends the chat, Ctrl-C "
        "an answer. When standard input is not a terminal, each of its lines is a question of its "
        "own, answered in one line. In the chat /help lists commands.",
    )
    add_model_options(parser)
    add = parser.add_argument
    add(
        "--image-file",
        metavar="IMAGES",
        help="files or http(s) URLs, separated by commas; without it the chat is text alone",
    )
    add("--device", choices=("cuda", "cpu", "mps"), help="default: the fastest that is there")
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
    add("--seed", type=int, metavar="N", help="makes answers and drawn images repeatable")
    add("--ocr", action="store_true", help="read the texts in the images, as help for the model")
    add("--gen", action="store_true", help="draw what the model asks for")
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
        help="where drawn images go, default generate.png",
    )
    options = parser.parse_args(arguments)
    check_model_options(options)
    if options.ocr and options.image_file is None:
        raise MGMError("--ocr reads texts in images; give --image-file")
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
    # A person may bring images later.
    texts = options.image_file is None and not (sys.stdin and sys.stdin.isatty())
    return load_model_of(options, text_only=texts)


def talk(session: Session, debug: bool) -> None:
    """Chat with the person at the terminal until an empty line or the end of the input."""
    with remembered_lines():
        while True:
            try:
                line = input(f"{USER}: ").strip()
            except (EOFError, KeyboardInterrupt):
                line = ""
                write_output("\n")
            if not line:
                write_output("exit...\n")
                return
            try:
                told = session.command(line)
                if told is not None:
                    report(told)
                    continue
                show(session.ask(line))
                if debug:
                    report(session.chat.details)
            except MGMError as error:
                report(f"error: {error}")


@contextmanager
def remembered_lines() -> Generator[None]:
    """Line editing, with the questions of earlier times, where the system has it."""
    try:
        import readline
    except ImportError:  # on Windows
        yield
        return
    file = HISTORY.expanduser()
    with suppress(OSError):
        readline.read_history_file(file)
    readline.set_history_length(1000)
    try:
        yield
    finally:
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(file)


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


def answer_lines(new_session: Callable[[], Session], lines: TextIO, debug: bool) -> int:
    """Answer each line in one line, in a conversation of its own; returns the exit status."""
    status = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            session = new_session()
            write_output(one_line("".join(session.ask(line.strip()))) + "\n")
            if debug:
                report(session.chat.details)
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

"""Chat about images in a terminal; with piped input, one answer per line.

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
from typing import TYPE_CHECKING, TextIO

from PIL import Image

from mgm.data.images.loading import open_image
from mgm.data.text.templates import get_template
from mgm.engine.core.request import Request
from mgm.errors import MGMError, one_line, run_command, write_output
from mgm.serve.common.model_args import load_from_options
from mgm.serve.terminal.options import parse_cli_options
from mgm.serve.terminal.session import Session
from mgm.serve.tools.image_generation import ImageGenerator
from mgm.serve.tools.ocr import load_ocr

if TYPE_CHECKING:
    from mgm.engine.engine import Engine

USER, ASSISTANT = "USER", "ASSISTANT"
HISTORY_FILE = Path("~/.cache/mgm/history")  # readline's history of questions


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chat; returns the exit status."""
    options = parse_cli_options(arguments)
    # Options and images are checked before the model loads, which takes time.
    settings = Request(
        "",
        temperature=options.temperature,
        max_new_tokens=options.max_new_tokens,
        seed=options.seed,
    )
    if options.conv_mode is not None:
        get_template(options.conv_mode)
    images = open_images(options.image_file)
    ocr = load_ocr() if options.ocr else None
    generator = ImageGenerator(options.gen_model) if options.gen else None
    start_time = time.perf_counter()
    engine = load_quietly(options)
    new_session = partial(
        Session,
        engine,
        settings,
        show_message,
        open_images,
        images,
        options.image_file,
        ocr,
        generator,
        options.output_file,
        options.seed,
    )
    if options.debug:
        show_message(f"loaded in {time.perf_counter() - start_time:.1f} s, {engine.model.device}")
    lines = sys.stdin or io.StringIO()  # None: the program was started without standard input
    if lines.isatty():
        run_chat(new_session(), options.debug)
        return 0
    return answer_lines(new_session, lines, options.debug)


def open_images(sources_text: str | None) -> list[Image.Image]:
    """Open the images of `--image-file`.

    Raises:
        MGMError: an image cannot be opened.
    """
    if sources_text is None:
        return []
    sources = split_sources(sources_text)
    if not sources:
        raise MGMError(
            f"--image-file is {sources_text!r}, which names no image; give one, or leave it out"
        )
    return [
        open_image(source, f"image {index} of {len(sources)}")
        for index, source in enumerate(sources, start=1)
    ]


def split_sources(text: str) -> list[str]:
    """Split a list of paths and URLs at its commas, but not at those within a path or URL."""
    if path_exists(text):
        return [text]
    sources: list[str] = []
    for part in text.split(","):
        if sources and continues_source(part, sources[-1]):
            sources[-1] += f",{part}"
        else:
            sources.append(part.strip())
    return [source for source in sources if source]


def continues_source(part: str, source: str) -> bool:
    """Whether the comma before `part` belongs to the URL before it."""
    scheme = source.split(":", 1)[0].lower()
    if scheme == "data":
        return "," not in source  # the first comma precedes the content, which has none
    is_url = part.strip().lower().startswith(("http://", "https://", "data:"))
    return scheme in ("http", "https") and not is_url and not path_exists(part)


def path_exists(path: str) -> bool:
    """Whether a file or folder with this path exists; False for invalid paths, as long URLs."""
    try:
        return bool(path) and Path(path).exists()
    except (OSError, ValueError):
        return False


def load_quietly(options: argparse.Namespace) -> "Engine":
    """Load the model without warnings and progress bars of libraries."""
    from transformers.utils import logging as transformers_logging

    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # At a terminal images may follow with /image.
    text_only = options.image_file is None and not (sys.stdin and sys.stdin.isatty())
    return load_from_options(options, text_only=text_only)


def run_chat(session: Session, debug: bool) -> None:
    """Run the chat loop until an empty line or the end of the input."""
    with readline_history():
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
                output = session.command(line)
                if output is not None:
                    show_message(output)
                    continue
                print_answer(session.ask(line))
                if debug:
                    show_message(session.chat.details)
            except MGMError as error:
                show_message(f"error: {error}")


@contextmanager
def readline_history() -> Generator[None]:
    """Line editing with a persistent history of questions, where readline is available."""
    try:
        import readline
    except ImportError:  # on Windows
        yield
        return
    file = HISTORY_FILE.expanduser()
    with suppress(OSError):
        readline.read_history_file(file)
    readline.set_history_length(1000)
    try:
        yield
    finally:
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(file)


def print_answer(texts: Generator[str, None, None]) -> None:
    """Print an answer as it is streamed; Ctrl-C stops it."""
    write_output(f"{ASSISTANT}: ")
    is_start = True
    try:
        with deferred_interrupt() as interrupted:
            for text in texts:
                visible = text.lstrip() if is_start else text
                is_start = is_start and not visible
                write_output(visible)
                if interrupted.is_set():
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        texts.close()
        write_output(" [stopped]")
    finally:
        write_output("\n")


@contextmanager
def deferred_interrupt() -> Generator[threading.Event]:
    """Turn the first SIGINT into an event; a second one raises KeyboardInterrupt at once.

    A library may swallow an exception raised inside it, but not the event.
    """
    interrupted = threading.Event()

    def handle_interrupt(number: int, frame: FrameType | None) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    previous_handler = signal.signal(signal.SIGINT, handle_interrupt)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, previous_handler)


def answer_lines(new_session: Callable[[], Session], lines: TextIO, debug: bool) -> int:
    """Answer each line in one line, as a separate conversation; returns the exit status."""
    status = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            session = new_session()
            write_output(one_line("".join(session.ask(line.strip()))) + "\n")
            if debug:
                show_message(session.chat.details)
        except MGMError as error:
            show_message(f"error: line {number}: {error}")
            status = 2
    return status


def show_message(text: str) -> None:
    """Print a message to standard error: standard output has answers only."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    run_command(main)

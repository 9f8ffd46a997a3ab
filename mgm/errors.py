"""Faults a user can mend, and how a command-line program ends on one."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import NoReturn

_UNPRINTABLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
READER_GONE = 141  # 128 + SIGPIPE: what a shell says of a program that nobody reads any more


class MGMError(ValueError):
    """A fault in what the user gave: its text is one line that names it and says what to do."""

    def __init__(self, message: object) -> None:
        # What others said (a server, a library, a name of a file) may hold line breaks.
        super().__init__(one_line(message))


class Parser(argparse.ArgumentParser):
    """A parser whose faults end the program as all others do: in one line."""

    def error(self, message: str) -> NoReturn:
        """End with an MGMError; argparse would print its usage and exit."""
        raise MGMError(f"{message:.300}; see --help")


@contextmanager
def faults_of(place: object) -> Generator[None]:
    """Have every MGMError that is raised inside name `place`: it begins with it, if it does not."""
    try:
        yield
    except MGMError as error:
        if str(place) in str(error):
            raise
        raise MGMError(f"{place}: {error}") from error


class OutputError(Exception):
    """Standard output takes nothing any more; the cause says why."""


def write_output(text: str) -> None:
    """Write to standard output, at once.

    Raises:
        OutputError: it could not be written; `run_command` knows what to say.
    """
    if sys.stdout is None:  # it was closed from the beginning
        return
    try:
        # Names of files may hold what the terminal's encoding has no bytes for.
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        # Python tries once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputError from error


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command-line program and exit with its status.

    A fault that the user can mend ends in one line on standard error and status 2, an interrupt
    in status 130, a reader of standard output that went away in status 141, without a word;
    anything else is a defect of ours and keeps its traceback.
    """
    try:
        try:
            status = main() or 0
        finally:
            write_output("")  # what others have printed
    except MGMError as error:
        sys.stderr.write(f"error: {error}\n")
        status = 2
    except OutputError as error:
        status = READER_GONE
        if not isinstance(error.__cause__, BrokenPipeError):
            reason = one_line(getattr(error.__cause__, "strerror", None) or error.__cause__)
            advice = "make room, or send it elsewhere"
            sys.stderr.write(f"error: standard output cannot be written to ({reason}); {advice}\n")
            status = 2
    except OSError as error:
        place = f" {error.filename}:" if error.filename else ""
        advice = "check the path, its permissions and the space there"
        sys.stderr.write(f"error:{place} {one_line(error.strerror or error)}; {advice}\n")
        status = 2
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        status = 130
    sys.exit(status)


def one_line(message: object) -> str:
    """The text of `message` with its lines, and what is blank around their breaks, joined.

    What no terminal or file can take (control characters, halves of surrogate pairs) is escaped.
    """
    text = " ".join(filter(None, map(str.strip, str(message).splitlines())))
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def hub_errors() -> tuple[type[Exception], ...]:
    """What the Hugging Face hub's library raises where it cannot do what it is asked for."""
    # Imported here: most runs download nothing. The transport's own errors are those of a library
    # that differs between versions; this name is the same in all of them.
    from huggingface_hub.errors import HFValidationError, HTTPError, LocalEntryNotFoundError

    return HTTPError, HFValidationError, LocalEntryNotFoundError, OSError

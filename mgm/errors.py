"""User errors, and how command-line programs report them: `MGMError` and `run_command`."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import NoReturn

_UNPRINTABLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE, as shells report it


class MGMError(ValueError):
    """A user error; its message is one line that names the input and says how to fix it."""

    def __init__(self, message: object) -> None:
        # Texts of servers, libraries and file names may contain line breaks.
        super().__init__(one_line(message))


class Parser(argparse.ArgumentParser):
    """An argument parser that reports invalid arguments as MGMErrors."""

    def error(self, message: str) -> NoReturn:
        """Raise an MGMError, where argparse would print its usage and exit."""
        raise MGMError(f"{message:.300}; see --help")


@contextmanager
def prefix_errors(label: object) -> Generator[None]:
    """Prefix MGMErrors raised inside with `label`, unless they contain it already.

    Args:
        label: what the block is about, such as a file or a flag.
    """
    try:
        yield
    except MGMError as error:
        if str(label) in str(error):
            raise
        raise MGMError(f"{label}: {error}") from error


class OutputError(Exception):
    """Standard output cannot be written to; the cause is an OSError."""


def write_output(text: str) -> None:
    """Write to standard output and flush.

    Raises:
        OutputError: it could not be written; `run_command` reports it.
    """
    if sys.stdout is None:  # it was closed when the program started
        return
    try:
        # File names may contain characters that the terminal's encoding lacks.
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        # Python flushes once more when it exits, and would print another error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputError from error


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command-line program and exit with its status.

    User errors are one line on standard error with status 2. An interrupt exits with status 130, a
    closed pipe behind standard output silently with 141. Anything else is a bug of ours and keeps
    its traceback.
    """
    try:
        try:
            status = main() or 0
        finally:
            write_output("")  # flush what was printed
    except MGMError as error:
        sys.stderr.write(f"error: {error}\n")
        status = 2
    except OutputError as error:
        status = EXIT_BROKEN_PIPE
        if not isinstance(error.__cause__, BrokenPipeError):
            reason = one_line(getattr(error.__cause__, "strerror", None) or error.__cause__)
            advice = "free space, or redirect it elsewhere"
            sys.stderr.write(f"error: standard output cannot be written to ({reason}); {advice}\n")
            status = 2
    except OSError as error:
        path = f" {error.filename}:" if error.filename else ""
        advice = "check the path, its permissions and the free space"
        sys.stderr.write(f"error:{path} {one_line(error.strerror or error)}; {advice}\n")
        status = 2
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        status = 130
    sys.exit(status)


def one_line(message: object) -> str:
    """`message` on one line: lines are stripped and joined by spaces.

    Control characters and lone surrogates are escaped, so that it can be printed and encoded.
    """
    text = " ".join(filter(None, map(str.strip, str(message).splitlines())))
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def hub_errors() -> tuple[type[Exception], ...]:
    """Exception types of huggingface_hub: network errors, refusals and invalid names."""
    # Imported here, since most runs download nothing. The HTTP library differs between versions of
    # huggingface_hub; HTTPError is its own name for that library's base class.
    from huggingface_hub.errors import HFValidationError, HTTPError, LocalEntryNotFoundError

    return HTTPError, HFValidationError, LocalEntryNotFoundError, OSError

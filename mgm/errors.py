"""Faults a user can mend, and how a command-line program ends on one."""

import sys
from collections.abc import Callable


class MGMError(ValueError):
    """A fault in what the user gave: its text is one line that names it and says what to do."""


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command-line program and exit with its status.

    A fault that the user can mend ends in one line on standard error and status 2, an interrupt
    in status 130; anything else is a defect of ours and keeps its traceback.
    """
    try:
        status = main() or 0
    except MGMError as error:
        sys.stderr.write(f"error: {one_line(error)}\n")
        status = 2
    except OSError as error:
        place = f" {error.filename}" if error.filename else ""
        sys.stderr.write(f"error:{place} {one_line(error.strerror or error)}\n")
        status = 2
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        status = 130
    sys.exit(status)


def one_line(message: object) -> str:
    """The text of `message` with every run of white space, line breaks included, as one space."""
    return " ".join(str(message).split())

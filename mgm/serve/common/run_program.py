"""Programs that need packages for serving, which are imported when one of them starts."""

from collections.abc import Sequence
from importlib import import_module

from mgm.errors import MGMError, one_line


def run_program(module: str, words: Sequence[str] | None = None, extra: str = "serve") -> int:
    """Run `main` of a module; returns its exit status.

    Args:
        module: its full name.
        words: options of the command line; None: those of this program.
        extra: of the project, that brings the packages.

    Raises:
        MGMError: an option is wrong, or the packages for serving are not installed.
    """
    try:
        program = import_module(module)
    except ImportError as error:
        raise MGMError(f"{one_line(error)}; pip install -e '.[{extra}]'") from error
    return program.main(words)

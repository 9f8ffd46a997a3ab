"""Starts a server program, whose optional dependencies are imported only then."""

from collections.abc import Sequence
from importlib import import_module

from mgm.errors import MGMError, one_line


def run_program(module: str, arguments: Sequence[str] | None = None, extra: str = "serve") -> int:
    """Run `main` of a module; returns its exit status.

    Args:
        module: full name of the module.
        arguments: command-line arguments; None: those of this process.
        extra: extra of this package that installs the module's dependencies.

    Raises:
        MGMError: an option is invalid, or a dependency is not installed.
    """
    try:
        program = import_module(module)
    except ImportError as error:
        raise MGMError(f"{one_line(error)}; pip install -e '.[{extra}]'") from error
    return program.main(arguments)

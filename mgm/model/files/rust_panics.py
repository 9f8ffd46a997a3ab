"""Panics of libraries written in Rust (tokenizers, safetensors) as ordinary exceptions."""

from collections.abc import Generator
from contextlib import contextmanager

from mgm.errors import one_line

# Of PyO3; each library has a class of its own with this name, which no library exports.
_PANIC = "PanicException"


@contextmanager
def panics_as_errors() -> Generator[None]:
    """Turn a panic into an exception that `except Exception` catches.

    PyO3 derives it from BaseException, as KeyboardInterrupt and SystemExit, which pass unchanged.

    Raises:
        RuntimeError: a library panicked; its message is that of the panic.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != _PANIC:
            raise
        raise RuntimeError(one_line(error)[:200]) from error

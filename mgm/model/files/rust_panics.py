"""Panics of libraries written in Rust (tokenizers, safetensors) as ordinary exceptions."""

from collections.abc import Generator
from contextlib import contextmanager

from mgm.errors import one_line

# PyO3's class; each library has its own copy, and none exports it.
_PANIC = "PanicException"


@contextmanager
def panics_as_errors() -> Generator[None]:
    """Turn a panic into an exception that `except Exception` catches.

    PyO3's panics are BaseExceptions. KeyboardInterrupt and SystemExit are not changed.

    Raises:
        RuntimeError: a library panicked; with its message.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != _PANIC:
            raise
        raise RuntimeError(one_line(error)[:200]) from error

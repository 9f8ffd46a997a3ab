"""Reads JSON and text files of checkpoints; every error is one line that names the file."""

import json
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from mgm.errors import MGMError, one_line

_CONFIG_PREFIX = "config: "  # start of errors of a config, which does not know its file
# Maximum size of a text file; tokenizer.json of the largest vocabularies takes 40 MB.
MAX_TEXT_BYTES = 256 * 2**20
# Tokenizers without a maximum length write int(1e30), which has 31 digits.
_MAX_DIGITS = 40

# Errors of libraries that build a config, or the modules that it describes, from invalid values.
_INVALID_CONFIG_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    StrictDataclassError,
    TypeError,
    ValueError,
)


def is_present(file: Path) -> bool:
    """Whether there is a file, folder or link of that name, even a broken link."""
    return os.path.lexists(file)


def check_readable(file: Path) -> int:
    """Check that a file is regular, since opening others might block; returns its size in bytes.

    Raises:
        MGMError: the file does not exist, is not readable, or is not regular (a folder, a pipe).
    """
    try:
        status = file.stat()
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            kind = "is a broken link" if is_present(file) else "no such file"
            raise MGMError(f"{file}: {kind}; check the path, or copy it again") from error
        reason = getattr(error, "strerror", None) or error
        raise MGMError(f"{file}: cannot be read ({one_line(reason)}); copy it again") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise MGMError(f"{file}: is {kind}, not a file; copy it again")
    if not os.access(file, os.R_OK):
        raise MGMError(f"{file}: may not be read; change its permissions")
    return status.st_size


def read_text(file: Path) -> str:
    """Read a text file in UTF-8.

    Raises:
        MGMError: the file does not exist, cannot be read, is too large, or is not UTF-8.
    """
    size = check_readable(file)
    if size > MAX_TEXT_BYTES:
        raise MGMError(f"{file}: has {size} bytes; expected {MAX_TEXT_BYTES} at most")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise MGMError(f"{file}: is not UTF-8 ({one_line(error)}); copy it again") from error
    except OSError as error:
        raise MGMError(f"{file}: cannot be read ({one_line(error)}); copy it again") from error


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        MGMError: the file cannot be read, or is not a JSON object.
    """
    try:
        content = json.loads(read_text(file), parse_int=_parse_int)
    except MGMError:
        raise
    except (ValueError, RecursionError) as error:
        raise MGMError(f"{file}: is not valid JSON ({one_line(error)}); copy it again") from error
    if not isinstance(content, dict):
        raise MGMError(f"{file}: contains a {type(content).__name__}, not an object; copy it again")
    return content


def read_optional_json(file: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object; an empty one if there is no such file.

    Raises:
        MGMError: as for `read_json`.
    """
    return read_json(file) if is_present(file) else {}


def _parse_int(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits, expected {_MAX_DIGITS} at most")
    return int(digits)


@contextmanager
def config_errors(file: Path) -> Generator[None]:
    """Turn errors of a config, or of modules built from it, into an MGMError that names `file`.

    Raises:
        MGMError: the block failed on the values in the file.
    """
    try:
        yield
    except MGMError as error:
        if not str(error).startswith(_CONFIG_PREFIX):
            raise
        raise MGMError(f"{file}: {str(error).removeprefix(_CONFIG_PREFIX)}") from error
    except _INVALID_CONFIG_ERRORS as error:
        cause = error.__cause__ or error
        # Some messages list all supported values.
        reason = f"{type(cause).__name__}: {one_line(cause)}"[:200]
        raise MGMError(
            f"{file}: is not a valid model config ({reason}); restore the file"
        ) from error

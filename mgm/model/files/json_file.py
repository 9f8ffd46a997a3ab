"""JSON files that describe a model or a part of one: what is wrong in them is said in one line."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from mgm.errors import MGMError, one_line

_NAMELESS = "config: "  # begins the errors of a config, which does not know its file

# What libraries raise when they build a config, or the modules that it describes, from odd values.
_UNFIT = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    StrictDataclassError,
    TypeError,
    ValueError,
)


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        MGMError: the file is not JSON, or holds something else than an object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise MGMError(f"{file}: is not valid JSON ({one_line(error)}); copy it again") from error
    if not isinstance(content, dict):
        raise MGMError(f"{file}: holds a {type(content).__name__}, not an object; copy it again")
    return content


@contextmanager
def named_faults(file: Path) -> Generator[None]:
    """Turn every fault of a config, or of what is built from it, into an error that names `file`.

    Raises:
        MGMError: the block failed on the values in the file.
    """
    try:
        yield
    except MGMError as error:
        if not str(error).startswith(_NAMELESS):
            raise
        raise MGMError(f"{file}: {str(error).removeprefix(_NAMELESS)}") from error
    except _UNFIT as error:
        cause = error.__cause__ or error
        # Some of them list all that a library knows.
        reason = f"{type(cause).__name__}: {one_line(cause)}"[:200]
        raise MGMError(f"{file}: describes no model ({reason}); restore the file") from error

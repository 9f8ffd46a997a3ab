"""Paths and contents of golden data of the published implementation."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

_HERE = Path(__file__).resolve().parent
_FOLDERS = (
    Path(os.environ.get("MGM_GOLDEN") or _HERE.parent.parent / "shared" / "golden"),
    _HERE / "golden",
)


if not _FOLDERS[0].is_dir() and os.environ.get("MGM_GOLDEN"):
    pytest.exit(f"MGM_GOLDEN: there is no folder {_FOLDERS[0]}; mend it, or unset it", 2)


def golden(path: str) -> Path:
    """The golden file or folder `path`, such as `text/prompts.json`.

    It comes from the full golden folder (environment variable MGM_GOLDEN, by default
    `../shared/golden` beside the checkout) or else from the selection in `tests/golden/`.
    The test is skipped when neither has it.
    """
    for folder in _FOLDERS:
        if (folder / path).exists():
            return folder / path
    pytest.skip(f"golden file {path} is neither in {_FOLDERS[0]} nor in {_FOLDERS[1]}")


def golden_json(path: str) -> Any:
    """The parsed content of the golden JSON file `path`."""
    return json.loads(golden(path).read_text(encoding="utf-8"))

"""Writes which checks have passed, and with which versions, into result.json of a folder.

python scripts/record.py FOLDER PACKAGE [PACKAGE ...] -- CHECK [CHECK ...]
"""

import json
import platform
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any


def write_result(folder: Path, packages: Iterable[str], **results: Any) -> None:
    """Write the date, the versions of packages and the results into result.json, and show it."""
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }
    text = json.dumps(result | results, indent=2)
    (folder / "result.json").write_text(text + "\n", encoding="utf-8")
    print(text)


def main(folder: str, *words: str) -> None:
    """Write what the command line names."""
    end = words.index("--")
    write_result(Path(folder), words[:end], passed=list(words[end + 1 :]))


if __name__ == "__main__":
    main(*sys.argv[1:])

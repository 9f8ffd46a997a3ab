"""Write the names of passed checks and the package versions to result.json of a folder.

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
    """Write the date, versions of packages and results to result.json, and print it."""
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }
    text = json.dumps(result | results, indent=2)
    (folder / "result.json").write_text(text + "\n", encoding="utf-8")
    print(text)


def main(folder: str, *words: str) -> None:
    """Write the checks and packages of the command line."""
    end = words.index("--")
    write_result(Path(folder), words[:end], passed=list(words[end + 1 :]))


if __name__ == "__main__":
    main(*sys.argv[1:])

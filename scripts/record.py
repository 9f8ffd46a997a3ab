"""Writes which checks have passed, and with which versions, into result.json of a folder.

python scripts/record.py FOLDER PACKAGE [PACKAGE ...] -- CHECK [CHECK ...]
"""

import json
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path


def main(folder: str, *words: str) -> None:
    """Write the file, and show it."""
    end = words.index("--")
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in words[:end]},
        "passed": list(words[end + 1 :]),
    }
    text = json.dumps(result, indent=2)
    (Path(folder) / "result.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main(*sys.argv[1:])

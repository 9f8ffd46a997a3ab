"""Writes what the tests of the lowest versions came to into result.json beside this file.

python scripts/lowest/report.py RECORDS      RECORDS: what pytest wrote with --junit-xml
"""

import json
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import requires, version
from pathlib import Path
from xml.etree import ElementTree

from packaging.requirements import Requirement

RESULT = Path(__file__).with_name("result.json")


def base_dependencies() -> list[str]:
    """Names of what mgm needs without any extra."""
    needed = map(Requirement, requires("mgm") or [])
    return [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]


def counts(records: Path) -> dict[str, float]:
    """How many tests passed, failed and were skipped, and the seconds they took."""
    suites = list(ElementTree.parse(records).getroot().iter("testsuite"))
    total = {
        name: sum(int(suite.attrib[name]) for suite in suites)
        for name in ("tests", "failures", "errors", "skipped")
    }
    failed = total["failures"] + total["errors"]
    return {
        "passed": total["tests"] - failed - total["skipped"],
        "failed": failed,
        "skipped": total["skipped"],
        "seconds": round(sum(float(suite.attrib["time"]) for suite in suites)),
    }


def main() -> None:
    """Write the file, and show it."""
    names = [*base_dependencies(), "peft", "pytest"]
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
        "tests": counts(Path(sys.argv[1])),
    }
    text = json.dumps(result, indent=2)
    RESULT.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

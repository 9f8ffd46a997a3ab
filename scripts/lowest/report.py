"""Writes what the tests of the lowest versions came to into result.json beside this file.

python -m scripts.lowest.report RECORDS      RECORDS: what pytest wrote with --junit-xml
"""

import sys
from importlib.metadata import requires
from pathlib import Path
from xml.etree import ElementTree

from packaging.requirements import Requirement

from scripts.record import write_result


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
    write_result(Path(__file__).parent, names, tests=counts(Path(sys.argv[1])))


if __name__ == "__main__":
    main()

"""Write the results of the tests with the lowest supported versions to result.json in this folder.

python -m scripts.lowest.report RECORDS      RECORDS: file written by pytest --junit-xml
"""

import sys
from importlib.metadata import requires
from pathlib import Path
from xml.etree import ElementTree

from packaging.requirements import Requirement

from scripts.record import write_result


def base_dependencies() -> list[str]:
    """Names of the packages that mgm requires without extras."""
    needed = map(Requirement, requires("mgm") or [])
    return [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]


def counts(records: Path) -> dict[str, float]:
    """Count passed, failed and skipped tests, and sum their seconds."""
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
    """Write result.json, and print it."""
    names = [*base_dependencies(), "peft", "pytest"]
    write_result(Path(__file__).parent, names, tests=counts(Path(sys.argv[1])))


if __name__ == "__main__":
    main()

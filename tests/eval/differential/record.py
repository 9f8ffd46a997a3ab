"""Score made-up answers with other projects' own functions, and keep them for `test_replay`.

python -m tests.eval.differential.record --vlmevalkit PATH --lmms-eval PATH --official NAME=PATH

A path may have the commit of its files behind an @, where it is no git repository. Recording needs
pandas, and Levenshtein for what measures edit distances; what else a harness imports is mocked.
"""

import argparse
import os
import sys
from pathlib import Path
from random import Random

from tests.eval.differential.case import all_cases, write_fixture
from tests.eval.differential.checkout import Checkout

SEED = 20240318  # seed of all random data


def main() -> None:
    """Record every case whose checkout is given."""
    parser = argparse.ArgumentParser(prog="python -m tests.eval.differential.record")
    parser.add_argument("--vlmevalkit", metavar="PATH")
    parser.add_argument("--lmms-eval", metavar="PATH")
    parser.add_argument("--official", nargs="+", default=[], metavar="NAME=PATH")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="fixtures to record")
    options = parser.parse_args()
    os.environ.setdefault("OPENAI_API_KEY", "unused")  # some create a client at import
    os.environ["PRED_FORMAT"] = "tsv"  # of VLMEvalKit's files
    paths = {"vlmevalkit": options.vlmevalkit, "lmms-eval": options.lmms_eval}
    paths |= dict(one.split("=", 1) for one in options.official)
    checkouts = {name: _checkout(path) for name, path in paths.items() if path}
    for case in all_cases():
        if case.harness not in checkouts or (options.only and case.name not in options.only):
            continue
        checkout = checkouts[case.harness]
        records = case.record(checkout, Random(f"{SEED} {case.name}"))
        count = write_fixture(case, checkout.commit, records)
        size = case.fixture.stat().st_size
        sys.stdout.write(f"{case.name}: {count} records, {size / 1000:.0f} kB\n")


def _checkout(text: str) -> Checkout:
    path, _, commit = text.partition("@")
    return Checkout(Path(path).resolve(), commit or None)


if __name__ == "__main__":
    main()

"""All that a GPU can show, in one call of at most ten minutes: bfloat16, batches of images.

    python -m benchmarks.gpu --out benchmarks/results/h200 [--minutes 9]
    python -m benchmarks.gpu --device cpu --small     to try the program itself

Writes OUT.json and OUT.png after every case, so that what was measured stays when time runs out.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import loss, vision
from benchmarks.harness import Case, Settings, report

BATCHES = {"336/768": 16, "HD": 4}  # images at once


def cases(chosen: Settings, seconds: float) -> Iterator[Case]:
    """Cases until time is up; what is left out is named."""
    end = time.monotonic() + seconds
    for layout, images in BATCHES.items():
        batch = replace(chosen, only=(layout,), images=1 if chosen.small else images)
        for case in vision.cases(batch):
            yield replace(case, name=f"{case.name}, batch {batch.images}")
            if time.monotonic() > end:
                print(f"time is up; left out: what comes after {case.name}")
                return
    yield from loss.cases(replace(chosen, only=()))


def main() -> None:
    """Measure, and write after every case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument(
        "--small", action="store_true", help="tiny sizes, to try the program itself"
    )
    parser.add_argument("--repeats", type=int, default=20, help="runs of each form")
    parser.add_argument("--minutes", type=float, default=9, help="after which no case is started")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.png")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: torch finds no CUDA device here; choose cpu, with --small")
    chosen = Settings(
        device=given.device,
        dtype=torch.bfloat16,
        repeats=given.repeats,
        only=(),
        small=given.small,
        images=1,
        compile=True,
        out=given.out,
    )
    report("Vision path and loss on a GPU", cases(chosen, given.minutes * 60), chosen)


if __name__ == "__main__":
    main()

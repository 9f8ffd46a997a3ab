"""The vision and loss benchmarks on a GPU within ten minutes: bfloat16, batches of images.

    python -m benchmarks.gpu --out benchmarks/results/h200 [--minutes 9]
    python -m benchmarks.gpu --device cpu --small     a quick test of the program

Writes OUT.json and OUT.png after every case, so that an interrupted run keeps its measurements.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import loss, vision
from benchmarks.harness import Case, Settings, report

BATCHES = {"336/768": 16, "HD": 4}  # images per batch


def cases(chosen: Settings, seconds: float) -> Iterator[Case]:
    """Cases until `seconds` have passed; prints after which case it stopped."""
    end = time.monotonic() + seconds
    for layout, images in BATCHES.items():
        batch = replace(chosen, only=(layout,), images=1 if chosen.small else images)
        for case in vision.cases(batch):
            yield replace(case, name=f"{case.name}, batch {batch.images}")
            if time.monotonic() > end:
                print(f"time is up; skipped all cases after {case.name}")
                return
    yield from loss.cases(replace(chosen, only=()))


def main() -> None:
    """Run the cases; save the results after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument(
        "--small", action="store_true", help="tiny sizes, a quick test of the program"
    )
    parser.add_argument("--repeats", type=int, default=20, help="runs of each variant")
    parser.add_argument("--minutes", type=float, default=9, help="start no case after this time")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.png")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: no CUDA device; use --device cpu --small")
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

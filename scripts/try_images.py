"""Run every file of a folder through the image processor, and report the outcomes.

    python scripts/try_images.py FOLDER [--workers N] [--network] [--orientation stored]

Reports decoded files by format and mode; refused files by reason; files that raised an exception
other than MGMError, which is a bug; the slowest files and the peak memory. Exits with status 1 if
any file raised such an exception or crashed its process.
"""

import argparse
import re
import resource
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from tqdm import tqdm

from mgm.data.image_processing_mgm import MGMImageProcessor
from mgm.data.images.decoding import read_image_header
from mgm.data.images.limits import LOCAL_LIMITS, NETWORK_LIMITS
from mgm.data.images.loading import image_file
from mgm.data.images.orientation import ORIENTATIONS, UPRIGHT
from mgm.errors import MGMError, Parser, one_line, run_command, write_output

DECODED, REFUSED, RAISED = "decoded", "refused", "raised"
GROUP = 256  # files per process pool
NUM_SLOWEST = 5  # slowest files to list


@dataclass(frozen=True)
class Outcome:
    """Outcome of one file.

    Attributes:
        path: the file.
        kind: decoded, refused or raised.
        text: format and mode, or the error.
        seconds: processing time.
        peak: peak memory of the process so far, in bytes.
    """

    path: Path
    kind: str
    text: str
    seconds: float
    peak: int


def main(words: Sequence[str] | None = None) -> int:
    """Process all files and print the report; returns the exit status."""
    options = parse(words)
    files = sorted(path for path in options.folder.rglob("*") if path.is_file())
    if not files:
        raise MGMError(f"{options.folder}: has no files; name a folder of images")
    attempt = partial(try_file, network=options.network, orientation=options.orientation)
    outcomes = list(
        tqdm(run_all(files, attempt, options.workers), total=len(files), disable=None, delay=2)
    )
    write_output(summary(outcomes, options.folder))
    return int(any(one.kind == RAISED for one in outcomes))


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line.

    Raises:
        MGMError: an option is invalid.
    """
    parser = Parser(
        prog="python scripts/try_images.py",
        description="Run every file of a folder through the image processor, and report which were "
        "decoded, refused (with reasons) or raised an exception.",
    )
    add = parser.add_argument
    add("folder", type=Path, help="folder of image files, searched recursively")
    add("--workers", type=int, default=1, metavar="N", help="number of processes; default: 1")
    add("--network", action="store_true", help="apply the size limits of servers")
    add(
        "--orientation",
        choices=ORIENTATIONS,
        default=UPRIGHT,
        help=f"orientation of decoded images; default: {UPRIGHT}",
    )
    options = parser.parse_args(words)
    if not options.folder.is_dir():
        raise MGMError(f"{options.folder}: is not a folder; name one with images")
    if options.workers < 1:
        raise MGMError(f"--workers {options.workers}: give a number from 1")
    return options


def try_file(path: Path, network: bool = False, orientation: str = UPRIGHT) -> Outcome:
    """Decode and preprocess one file as the processor does."""
    started = time.perf_counter()
    try:
        content, name = image_file(path, "file")
        encoded = read_image_header(content, name, NETWORK_LIMITS if network else LOCAL_LIMITS)
        text = f"{encoded.image.format} {encoded.image.mode}"
        _processor().preprocess(encoded.decode(orientation), do_normalize=False)
        kind = DECODED
    except MGMError as error:
        kind, text = REFUSED, str(error).removeprefix(f"file: {path}: ")
    except Exception as error:  # noqa: BLE001  any exception is a bug that this script reports
        kind, text = RAISED, f"{type(error).__name__}: {one_line(error)}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
    return Outcome(path, kind, text, time.perf_counter() - started, peak)


@cache
def _processor() -> MGMImageProcessor:
    return MGMImageProcessor()


def run_all(files: Sequence[Path], attempt: "partial[Outcome]", workers: int) -> Iterator[Outcome]:
    """Process files in parallel; yields outcomes in any order, crashes of processes included."""
    for start in range(0, len(files), GROUP):
        group = files[start : start + GROUP]
        left = set(group)
        with ProcessPoolExecutor(workers) as pool:
            running = {pool.submit(attempt, path): path for path in group}
            for done in as_completed(running):
                try:
                    outcome = done.result()
                except BrokenProcessPool:
                    break
                left.discard(running[done])
                yield outcome
        for path in sorted(left):
            yield _alone(path, attempt)


def _alone(path: Path, attempt: "partial[Outcome]") -> Outcome:
    with ProcessPoolExecutor(1) as pool:
        try:
            return pool.submit(attempt, path).result()
        except BrokenProcessPool:
            return Outcome(path, RAISED, "crashed the process", 0.0, 0)


def summary(outcomes: Sequence[Outcome], folder: Path) -> str:
    """Format the report."""
    counts = Counter(one.kind for one in outcomes)
    lines = [f"{len(outcomes)} files: " + ", ".join(
        f"{counts[kind]} {kind}" for kind in (DECODED, REFUSED, RAISED)
    )]  # fmt: skip
    kinds = Counter(one.text for one in outcomes if one.kind == DECODED)
    lines += ["", "decoded, by format and mode:"]
    lines += [f"  {count:6}  {text}" for text, count in kinds.most_common()]
    reasons: defaultdict[str, list[Outcome]] = defaultdict(list)
    for one in outcomes:
        if one.kind == REFUSED:
            reasons[re.sub(r"[\d,]*\d", "N", one.text)].append(one)
    lines += ["", "refused, by reason:"]
    for group in sorted(reasons.values(), key=len, reverse=True):
        name = group[0].path.relative_to(folder)
        lines.append(f"  {len(group):6}  {group[0].text} (such as {name})")
    raised = [one for one in outcomes if one.kind == RAISED]
    lines += ["", "raised:"] + [f"  {one.path}: {one.text}" for one in raised]
    lines += ["", "slowest:"]
    for one in sorted(outcomes, key=lambda one: -one.seconds)[:NUM_SLOWEST]:
        lines.append(f"  {one.seconds:6.2f} s  {one.path.relative_to(folder)}")
    peak = max(one.peak for one in outcomes)
    lines += ["", f"peak memory of a process: {peak / 2**20:,.0f} MiB"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_command(main)

"""Fetch the files of benchmarks: python -m mgm.eval.prepare textvqa.

What can be had by itself is fetched, checked and unpacked; for the rest it says what goes where.
A run that was killed is run again, and goes on.
"""

import argparse
import hashlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from mgm.errors import MGMError, Parser, one_line, run_command
from mgm.eval.download.archive import is_archive, unpack
from mgm.eval.download.http_file import fetch, remove
from mgm.eval.download.hub import provide_from_hub
from mgm.eval.plan import DATA
from mgm.eval.registry import BENCHMARKS, GROUPS, expanded, resolve
from mgm.eval.tasks.benchmark import PROTOCOLS
from mgm.eval.tasks.dataset_source import HUB_FOLDER, Needed

logger = logging.getLogger("mgm.eval")
CHUNK = 2**20  # bytes


def main(words: Sequence[str] | None = None) -> int:
    """Prepare; returns 1 where something is still missing."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("mgm").setLevel(logging.INFO)
    options = parse(words)
    missing = 0
    for name in expanded(options.benchmark):
        kind, split, protocol = resolve(name, options.protocol)
        folder = kind.folder_in(options.data)
        needs = kind.needs_of(split, protocol)
        for needed in needs:
            try:
                missing += not provide(needed, folder, options.offline, needs)
            except MGMError as error:  # the others can be had
                logger.error("error: %s", error)
                missing += 1
    if missing:
        logger.info("%d files are missing", missing)
    return int(missing > 0)


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = Parser(
        prog="python -m mgm.eval.prepare",
        description="Fetch the files that benchmarks read, and say what to put where by hand.",
    )
    parser.add_argument(
        "benchmark", nargs="+", metavar="NAME[:SPLIT]", help=", ".join((*BENCHMARKS, *GROUPS))
    )
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        help="prepare what this protocol reads; default: the usual protocol of each benchmark, "
        "also where a benchmark does not have this one",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=DATA,
        metavar="FOLDER",
        help=f"folder that gets a folder for each benchmark; default: {DATA}",
    )
    parser.add_argument("--offline", action="store_true", help="only say what is missing")
    return parser.parse_args(words)


def provide(
    needed: Needed, folder: Path, offline: bool = False, others: Sequence[Needed] = ()
) -> bool:
    """Fetch a file or folder if it is missing, or log how to get it; returns whether it is there.

    Args:
        needed: what.
        folder: the benchmark's.
        offline: whether nothing is fetched.
        others: that the benchmark needs, which may come with it in one archive.

    Raises:
        MGMError: what was fetched is not what it should be.
    """
    if needed.dataset is not None:
        hub = folder / HUB_FOLDER
        return provide_from_hub(needed.dataset, needed.path, hub, offline, needed.revision)
    path = folder / needed.path
    if path.exists():
        check_hash(path, needed.md5)
        logger.info("there: %s", path)
        return True
    if needed.url is not None and not offline:
        try:
            _fetch(needed, folder, others)
            logger.info("fetched: %s", path)
            return True
        except OSError as error:
            logger.info("%s: cannot be fetched (%s)", needed.url, one_line(error))
    where = f", from {needed.url}" if needed.url else ""
    logger.info("missing: put %s here: %s%s", needed.source, path, where)
    return False


def _fetch(needed: Needed, folder: Path, others: Sequence[Needed]) -> None:
    """Fetch a file into its folder; an archive is unpacked with what others need of it.

    Raises:
        OSError: the network fails.
        MGMError: it is another file than it should be, or an archive that cannot be unpacked.
    """
    path, url = folder / needed.path, needed.url or ""
    name = url.rsplit("/", 1)[-1]
    packed = is_archive(name) and not is_archive(needed.path)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{name}.part"
    fetch(url, part, checked=needed.md5 is not None or packed)
    if packed:
        unpack(part, name, folder, [needed.path, *(one.path for one in others if one != needed)])
    else:
        try:
            check_hash(part, needed.md5)
        except MGMError:
            remove(part)
            raise
        path.parent.mkdir(parents=True, exist_ok=True)
        part.replace(path)
    remove(part)


def check_hash(path: Path, md5: str | None) -> None:
    """Raise an MGMError if a file is another one."""
    if md5 is None or path.is_dir():
        return
    digest = hashlib.md5()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != md5:
        raise MGMError(
            f"{path}: has the md5 {digest.hexdigest()}, not {md5}; it is of another version, or "
            "damaged: delete it, and run again"
        )


if __name__ == "__main__":
    run_command(main)

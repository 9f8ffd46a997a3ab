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
from mgm.eval.download.archive import is_archive, unpack_archive
from mgm.eval.download.http_file import download, remove_partial
from mgm.eval.download.hub import provide_from_hub
from mgm.eval.plan import DEFAULT_DATA_DIR
from mgm.eval.registry import BENCHMARK_GROUPS, BENCHMARKS, expand_groups, resolve_benchmark
from mgm.eval.tasks.benchmark import PROTOCOLS
from mgm.eval.tasks.dataset_source import HUB_FOLDER, RequiredFile

logger = logging.getLogger("mgm.eval")
CHUNK = 2**20  # bytes


def main(words: Sequence[str] | None = None) -> int:
    """Prepare; returns 1 where something is still missing."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("mgm").setLevel(logging.INFO)
    options = parse_args(words)
    missing = 0
    for name in expand_groups(options.benchmark):
        kind, split, protocol = resolve_benchmark(name, options.protocol)
        folder = kind.folder_in(options.data)
        files_of_benchmark = kind.required_files(split, protocol)
        for required in files_of_benchmark:
            try:
                missing += not provide(required, folder, options.offline, files_of_benchmark)
            except MGMError as error:  # the others can be had
                logger.error("error: %s", error)
                missing += 1
    if missing:
        logger.info("%d files are missing", missing)
    return int(missing > 0)


def parse_args(words: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = Parser(
        prog="python -m mgm.eval.prepare",
        description="Fetch the files that benchmarks read, and say what to put where by hand.",
    )
    parser.add_argument(
        "benchmark",
        nargs="+",
        metavar="NAME[:SPLIT]",
        help=", ".join((*BENCHMARKS, *BENCHMARK_GROUPS)),
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
        default=DEFAULT_DATA_DIR,
        metavar="FOLDER",
        help=f"folder that gets a folder for each benchmark; default: {DEFAULT_DATA_DIR}",
    )
    parser.add_argument("--offline", action="store_true", help="only say what is missing")
    return parser.parse_args(words)


def provide(
    required: RequiredFile, folder: Path, offline: bool = False, others: Sequence[RequiredFile] = ()
) -> bool:
    """Fetch a file or folder if it is missing, or log how to get it; returns whether it is there.

    Args:
        required: what.
        folder: the benchmark's.
        offline: whether nothing is fetched.
        others: that the benchmark needs, which may come with it in one archive.

    Raises:
        MGMError: what was fetched is not what it should be.
    """
    if required.dataset is not None:
        hub = folder / HUB_FOLDER
        return provide_from_hub(required.dataset, required.path, hub, offline, required.revision)
    path = folder / required.path
    if path.exists():
        check_hash(path, required.md5)
        logger.info("there: %s", path)
        return True
    if required.url is not None and not offline:
        try:
            _fetch(required, folder, others)
            logger.info("fetched: %s", path)
            return True
        except OSError as error:
            logger.info("%s: cannot be fetched (%s)", required.url, one_line(error))
    where = f", from {required.url}" if required.url else ""
    logger.info("missing: put %s here: %s%s", required.source, path, where)
    return False


def _fetch(required: RequiredFile, folder: Path, others: Sequence[RequiredFile]) -> None:
    """Fetch a file into its folder; an archive is unpacked with what others need of it.

    Raises:
        OSError: the network fails.
        MGMError: it is another file than it should be, or an archive that cannot be unpacked.
    """
    path, url = folder / required.path, required.url or ""
    name = url.rsplit("/", 1)[-1]
    packed = is_archive(name) and not is_archive(required.path)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{name}.part"
    download(url, part, checked=required.md5 is not None or packed)
    if packed:
        unpack_archive(
            part, name, folder, [required.path, *(one.path for one in others if one != required)]
        )
    else:
        try:
            check_hash(part, required.md5)
        except MGMError:
            remove_partial(part)
            raise
        path.parent.mkdir(parents=True, exist_ok=True)
        part.replace(path)
    remove_partial(part)


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

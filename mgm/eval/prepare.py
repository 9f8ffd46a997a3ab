"""Download the files of benchmarks: python -m mgm.eval.prepare textvqa.

Public files are downloaded, verified and unpacked; for all others the log says where to put them.
An interrupted run resumes when it is started again.
"""

import argparse
import hashlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from mgm.errors import MGMError, Parser, one_line, run_command
from mgm.eval.download.archive import is_archive, unpack_archive
from mgm.eval.download.http_file import download_file, remove_partial
from mgm.eval.download.hub import download_from_hub
from mgm.eval.plan import DEFAULT_DATA_DIR
from mgm.eval.registry import BENCHMARK_GROUPS, BENCHMARKS, expand_groups, resolve_benchmark
from mgm.eval.tasks.benchmark import PROTOCOLS
from mgm.eval.tasks.dataset_source import HUB_FOLDER, RequiredFile

logger = logging.getLogger("mgm.eval")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare benchmarks; returns 1 if files are still missing."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("mgm").setLevel(logging.INFO)
    options = parse_args(arguments)
    missing = 0
    for name in expand_groups(options.benchmark):
        benchmark, split, protocol = resolve_benchmark(name, options.protocol)
        folder = benchmark.folder_in(options.data_dir)
        files = benchmark.required_files(split, protocol)
        for file in files:
            try:
                missing += not provide(file, folder, options.offline, files)
            except MGMError as error:  # continue with the other files
                logger.error("error: %s", error)
                missing += 1
    if missing:
        logger.info("%d files are missing", missing)
    return int(missing > 0)


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(
        prog="python -m mgm.eval.prepare",
        description="Download the files of benchmarks, and list those to add by hand.",
    )
    parser.add_argument(
        "benchmark",
        nargs="+",
        metavar="NAME[:SPLIT]",
        help="benchmarks or groups: " + ", ".join((*BENCHMARKS, *BENCHMARK_GROUPS)),
    )
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        help="prepare the files of this protocol; default: the default protocol of each benchmark, "
        "which is also the fallback for benchmarks without the given one",
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=DEFAULT_DATA_DIR,
        metavar="FOLDER",
        help=f"folder that gets a folder for each benchmark; default: {DEFAULT_DATA_DIR}",
    )
    parser.add_argument(
        "--offline", action="store_true", help="download nothing, list what is missing"
    )
    return parser.parse_args(arguments)


def provide(
    file: RequiredFile, folder: Path, offline: bool = False, others: Sequence[RequiredFile] = ()
) -> bool:
    """Download a file or folder unless it exists; log instructions if that is impossible.

    Args:
        file: file to provide.
        folder: folder of the benchmark.
        offline: download nothing.
        others: further files of the benchmark, unpacked too if the same archive contains them.

    Returns:
        Whether the file exists now.

    Raises:
        MGMError: the downloaded file has the wrong content.
    """
    if file.dataset is not None:
        hub = folder / HUB_FOLDER
        return download_from_hub(file.dataset, file.path, hub, offline, file.revision)
    path = folder / file.path
    if path.exists():
        check_md5(path, file.md5)
        logger.info("exists: %s", path)
        return True
    if file.url is not None and not offline:
        try:
            _download(file, folder, others)
            logger.info("downloaded: %s", path)
            return True
        except OSError as error:
            logger.info("%s: download failed (%s)", file.url, one_line(error))
    url = f", from {file.url}" if file.url else ""
    logger.info("missing: put %s here: %s%s", file.source, path, url)
    return False


def _download(file: RequiredFile, folder: Path, others: Sequence[RequiredFile]) -> None:
    """Download a file; of an archive, unpack the file and the `others` that it contains.

    Raises:
        OSError: the network fails.
        MGMError: wrong content, or an archive that cannot be unpacked.
    """
    path, url = folder / file.path, file.url or ""
    name = url.rsplit("/", 1)[-1]
    packed = is_archive(name) and not is_archive(file.path)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{name}.part"
    download_file(url, part, verified=file.md5 is not None or packed)
    if packed:
        paths = [file.path, *(other.path for other in others if other != file)]
        unpack_archive(part, name, folder, paths)
    else:
        try:
            check_md5(part, file.md5)
        except MGMError:
            remove_partial(part)
            raise
        path.parent.mkdir(parents=True, exist_ok=True)
        part.replace(path)
    remove_partial(part)


def check_md5(path: Path, md5: str | None) -> None:
    """Raise an MGMError if a file has another MD5; None and folders are not checked."""
    if md5 is None or path.is_dir():
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
    if digest != md5:
        raise MGMError(
            f"{path}: has the md5 {digest}, expected {md5}; it is damaged or of another version: "
            "delete it, and run again"
        )


if __name__ == "__main__":
    run_command(main)

"""Bring benchmarks' files to their place: python -m mgm.eval.prepare textvqa.

What can be had by itself is fetched, checked and unpacked; for the rest it says what goes where.
"""

import argparse
import hashlib
import logging
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from mgm.errors import MGMError, Parser, hub_errors, one_line, run_command
from mgm.eval.registry import BENCHMARKS, GROUPS, benchmark, expanded
from mgm.eval.tasks.benchmark import PAPER, PROTOCOLS
from mgm.eval.tasks.dataset_source import HUB_FOLDER, Needed

logger = logging.getLogger("mgm.eval")
PIECE = 2**20  # bytes
PATIENCE = 30.0  # seconds without a byte


def main(words: Sequence[str] | None = None) -> int:
    """Prepare; returns 1 where something is still missing."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("mgm").setLevel(logging.INFO)
    options = parse(words)
    missing = 0
    for name in expanded(options.benchmark):
        kind, split = benchmark(name, options.protocol)
        protocol = options.protocol or (kind.protocols_of(split) or [PAPER])[0]
        kind.check(split, protocol)
        folder = options.data / kind.folder
        for needed in kind.needs_of(split, protocol):
            missing += not provide(needed, folder, options.offline)
    if missing:
        logger.info("%d files are missing", missing)
    return int(missing > 0)


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = Parser(
        prog="python -m mgm.eval.prepare", description="Bring benchmarks' files to their place."
    )
    parser.add_argument(
        "benchmark", nargs="+", metavar="NAME", help=", ".join((*BENCHMARKS, *GROUPS))
    )
    parser.add_argument("--protocol", choices=PROTOCOLS, help=f"whose data; default: {PAPER}")
    parser.add_argument("--data", type=Path, default=Path("data/MGM-Eval"), metavar="FOLDER")
    parser.add_argument("--offline", action="store_true", help="only say what is missing")
    return parser.parse_args(words)


def provide(needed: Needed, folder: Path, offline: bool = False) -> bool:
    """Have a file or folder in its place; says what to do if it cannot be. Returns whether it is.

    Raises:
        MGMError: what was fetched is not what it should be.
    """
    if needed.dataset is not None:
        return provide_from_hub(needed.dataset, needed.path, folder / HUB_FOLDER, offline)
    place = folder / needed.path
    if place.exists():
        check_hash(place, needed.md5)
        logger.info("there: %s", place)
        return True
    if needed.url is not None and not offline:
        try:
            fetch(needed.url, folder, place)
            check_hash(place, needed.md5)
            logger.info("fetched: %s", place)
            return True
        except (urllib.error.URLError, OSError) as error:
            logger.info("%s: cannot be fetched (%s)", needed.url, one_line(error))
    where = f", from {needed.url}" if needed.url else ""
    logger.info("missing: put %s here: %s%s", needed.source, place, where)
    return False


def provide_from_hub(dataset: str, pattern: str, folder: Path, offline: bool) -> bool:
    """Have files of a data set of the hub in a folder; returns whether they are there.

    The hub's own library goes on where it broke off, and checks sizes.
    """
    from huggingface_hub import snapshot_download

    if not offline:
        try:
            snapshot_download(
                dataset, repo_type="dataset", allow_patterns=pattern, local_dir=folder
            )
        except hub_errors() as error:
            logger.info("%s: cannot be fetched (%s)", dataset, one_line(error)[:200])
    found = sorted(folder.glob(pattern))
    for path in found:
        logger.info("there: %s", path)
    if not found:
        logger.info("missing: put the files %s of the data set %s of the Hugging Face hub into %s",
                    pattern, dataset, folder)  # fmt: skip
    return bool(found)


def fetch(url: str, folder: Path, place: Path) -> None:
    """Fetch a file, going on where an earlier try broke off; an archive is unpacked.

    Raises:
        OSError: the network fails.
        MGMError: the archive is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = url.rsplit("/", 1)[-1]
    part = folder / f".{name}.part"
    begun = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={begun}-"} if begun else {})
    with urllib.request.urlopen(request, timeout=PATIENCE) as response:
        goes_on = response.status == 206
        length = int(response.headers.get("Content-Length") or 0)
        with (
            part.open("ab" if goes_on else "wb") as file,
            tqdm(total=length or None, desc=name, unit="B", unit_scale=True) as bar,
        ):
            received = 0
            while piece := response.read(PIECE):
                file.write(piece)
                received += len(piece)
                bar.update(len(piece))
        if length and received < length:
            raise OSError(f"the connection broke after {received} of {length} bytes")
    if name.endswith(".zip") and place.suffix != ".zip":
        _unpack(part, folder, place)
        part.unlink()
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        part.replace(place)


def _unpack(archive: Path, folder: Path, place: Path) -> None:
    """Unpack an archive; what it holds under another folder's name goes to its place.

    Raises:
        MGMError: it is damaged, would write elsewhere, or does not hold what is looked for.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            for name in content.namelist():
                if not (folder / name).resolve().is_relative_to(folder.resolve()):
                    raise MGMError(f"{archive}: would write {name}, outside of its folder")
            content.extractall(folder)
    except (zipfile.BadZipFile, EOFError) as error:
        raise MGMError(f"{archive}: is a damaged archive; delete it, and run again") from error
    if not place.exists():
        found = [path for path in folder.rglob(place.name) if path != place]
        if len(found) != 1:
            raise MGMError(f"{archive}: holds no {place.name}; put it to {place} by hand")
        place.parent.mkdir(parents=True, exist_ok=True)
        found[0].rename(place)


def check_hash(place: Path, md5: str | None) -> None:
    """Raise an MGMError if a file is another one."""
    if md5 is None or place.is_dir():
        return
    digest = hashlib.md5()
    with place.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    if digest.hexdigest() != md5:
        raise MGMError(
            f"{place}: has the md5 {digest.hexdigest()}, not {md5}; it is of another version, or "
            "damaged: delete it, and run again"
        )


if __name__ == "__main__":
    run_command(main)

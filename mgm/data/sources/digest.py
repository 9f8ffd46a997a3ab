"""SHA-256 digests of data files and weights, cached by file size and modification time."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from mgm.atomic import atomic_file
from mgm.data.sources.json.json_index import cache_path
from mgm.errors import MGMError, one_line
from mgm.file_digest import file_digest

FULL_DIGEST_BYTES = (
    8 * 2**30
)  # total size up to which every byte is hashed; beyond it, sampled blocks are
CACHED_FROM = 64 * 2**20  # minimum size of a file whose digest is cached


def digest_of(files: Iterable[Path], read_whole: int = FULL_DIGEST_BYTES) -> str:
    """SHA-256 of the content of files in their order, independent of their names and folders.

    Up to a total of `read_whole` bytes every byte is hashed; of larger data the sizes and evenly
    spaced blocks of each file, the first and the last bytes included. The digest of a large file
    is cached in the user's cache folder until its size or modification time changes.

    Args:
        files: local files.
        read_whole: total size in bytes up to which every byte is hashed.

    Returns:
        Hexadecimal digits.

    Raises:
        MGMError: a file cannot be read.
    """
    files = list(files)
    combined = hashlib.sha256()
    try:
        whole = sum(file.stat().st_size for file in files) <= read_whole
        for file in files:
            combined.update(_cached_digest(file, whole))
    except OSError as error:
        name = error.filename or ", ".join(map(str, files))
        raise MGMError(
            f"{name}: cannot be read ({one_line(error.strerror or error)}); check the path and its "
            "permissions"
        ) from error
    return combined.hexdigest()


def _cached_digest(file: Path, whole: bool) -> bytes:
    status = file.stat()
    if status.st_size < CACHED_FROM:
        return file_digest(file, whole)
    stamp = [status.st_size, status.st_mtime_ns, whole]
    path = cache_path(f"digest {file.resolve()}").with_suffix(".json")
    try:
        cached = json.loads(path.read_text(encoding="utf-8"))
        if cached["stamp"] == stamp:
            return bytes.fromhex(cached["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no entry, or an invalid one
    digest = file_digest(file, whole)
    try:
        with atomic_file(path) as part:
            entry = {"stamp": stamp, "sha256": digest.hex()}
            part.write_text(json.dumps(entry), encoding="utf-8")
    except MGMError:
        pass  # without a cache, it is computed again next time
    return digest

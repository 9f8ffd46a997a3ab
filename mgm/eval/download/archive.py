"""Safe unpacking of zip and tar archives: selected paths, size limits, no path traversal."""

import gzip
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TypeVar

from mgm.atomic import write_errors
from mgm.errors import MGMError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
BY_HAND = (".rar", ".7z")
MAX_RATIO = 100  # maximum ratio of unpacked to archive size (zip bombs)
MIN_BOUND = 2**30  # unpacked bytes that are always allowed
MAX_MEMBERS = 5_000_000
UNPACK_CHUNK = 2**20  # bytes per read
DAMAGE_ERRORS = (
    *(EOFError, NotImplementedError, RuntimeError, UnicodeError, ValueError, gzip.BadGzipFile),
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error),
)

ZIP_SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")  # first bytes of a zip, and of an empty one
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
MAX_NAME_BYTES = 255  # maximum of a path component on common file systems
MAX_DEPTH = 64  # path components

Read = TypeVar("Read")


@dataclass(frozen=True)
class _Member:
    """A file in an archive, with a path that is safe to write."""

    parts: tuple[str, ...]
    size: int
    open: Callable[[], IO[bytes]]


def is_archive(name: str) -> bool:
    """Whether a file name has the suffix of an archive."""
    return name.lower().endswith((*SUFFIXES, *BY_HAND))


def unpack_archive(archive: Path, name: str, folder: Path, paths: Sequence[str]) -> None:
    """Unpack selected paths atomically: into a temporary folder first, then renamed.

    Args:
        archive: the file.
        name: name of the archive at its source; its suffix decides the format.
        folder: folder to unpack to.
        paths: to unpack, relative to the folder; in the archive they may lie deeper. The first is
            required, the others are optional.

    Raises:
        MGMError: the archive is damaged, encrypted, unsafe or too large, or does not contain the
            first path exactly once.
    """
    if name.lower().endswith(BY_HAND):
        raise MGMError(
            f"{archive}: archives of this format have to be unpacked by hand, into {folder}"
        )
    part = folder / f".{name}.unpacking"
    with write_errors(folder):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            with _open_members(archive, name) as members:
                unpacked = _unpack(archive, members, part, paths)
            for path in reversed(unpacked):  # the required path last: it marks completion
                target = folder / path
                if not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    (part / path).rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _unpack(
    archive: Path, members: Sequence[_Member], part: Path, paths: Sequence[str]
) -> list[str]:
    """Unpack into an empty folder; returns the paths that the archive contains.

    Raises:
        MGMError: the archive does not contain the first path, or contains it several times.
    """
    unpacked = []
    for path in paths:
        locations = _locations(PurePosixPath(path).parts, members)
        if len(locations) != 1:
            if path == paths[0]:
                shown = ", ".join("/".join(one) for one in locations[:3])
                what = f"several {path} ({shown})" if locations else f"no {path}"
                target = part.parent / path
                raise MGMError(f"{archive}: contains {what}; put it to {target} by hand")
            continue
        (location,) = locations
        unpacked.append(path)
        for member in members:
            if member.parts[: len(location)] == location:
                target = part.joinpath(path, *member.parts[len(location) :])
                target.parent.mkdir(parents=True, exist_ok=True)
                _copy(archive, member, target)
    return unpacked


def _copy(archive: Path, member: _Member, target: Path) -> None:
    written = 0
    with _readable(archive, member.open) as source, target.open("xb") as file:
        while chunk := _readable(archive, lambda: source.read(UNPACK_CHUNK)):
            written += len(chunk)
            if written > member.size:
                raise MGMError(
                    f"{archive}: {'/'.join(member.parts)} is larger than its header says"
                )
            file.write(chunk)
    if written != member.size:
        raise _damaged(archive, "truncated")


def _locations(path: tuple[str, ...], members: Sequence[_Member]) -> list[tuple[str, ...]]:
    """Locations of a path in an archive: exact, else with the same ending, else the same name."""
    ambiguous: list[tuple[str, ...]] = []
    for tail in (path, path[-1:]):
        candidates = {
            member.parts[: end + len(tail)]
            for member in members
            for end in range(len(member.parts) - len(tail) + 1)
            if member.parts[end : end + len(tail)] == tail
        }
        if tail in candidates:
            return [tail]
        if len(candidates) == 1:
            return list(candidates)
        ambiguous = ambiguous or sorted(candidates)
    return ambiguous


@contextmanager
def _open_members(archive: Path, name: str) -> Generator[list[_Member]]:
    """Open an archive and list its files.

    Raises:
        MGMError: the archive is damaged, or a file in it is encrypted, unsafe or too large.
    """
    with ExitStack() as stack:
        is_zip = _readable(archive, lambda: _is_zip(archive, name))
        read = _zip_members if is_zip else _tar_members
        bound = max(MIN_BOUND, MAX_RATIO * archive.stat().st_size)
        free = shutil.disk_usage(archive.parent).free
        members: list[_Member] = []
        names: set[tuple[str, ...]] = set()
        total = 0
        for member in _checked(archive, read(archive, stack)):
            total += member.size
            if total > bound or len(names) >= MAX_MEMBERS:
                raise MGMError(
                    f"{archive}: contains more than {bound >> 30} GiB or {MAX_MEMBERS} files; "
                    "unpack it by hand if you trust it"
                )
            if total > free:
                raise MGMError(
                    f"{archive}: not enough disk space to unpack it; free some and run again"
                )
            if member.parts in names:
                raise MGMError(f"{archive}: contains {'/'.join(member.parts)} twice")
            names.add(member.parts)
            members.append(member)
        for parts in names:
            if any(parts[:end] in names for end in range(1, len(parts))):
                raise MGMError(f"{archive}: contains {'/'.join(parts)} below a file")
        yield members


def _is_zip(archive: Path, name: str) -> bool:
    """Whether an archive is a zip file, by its signature or else by its name.

    `zipfile.is_zipfile` is also true for a tar archive whose last file is a zip archive.
    """
    with archive.open("rb") as file:
        signature = file.read(len(ZIP_SIGNATURES[0]))
    return signature in ZIP_SIGNATURES or (
        name.lower().endswith(".zip") and not tarfile.is_tarfile(archive)
    )


def _checked(archive: Path, members: Iterator[_Member]) -> Iterator[_Member]:
    while (member := _readable(archive, lambda: next(members, None))) is not None:
        yield member


def _zip_members(archive: Path, stack: ExitStack) -> Iterator[_Member]:
    content = stack.enter_context(zipfile.ZipFile(archive))
    for entry in content.infolist():
        mode = entry.external_attr >> 16
        parts = _parts(archive, entry.orig_filename)
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise MGMError(f"{archive}: contains a link or device, {entry.filename}")
        if entry.is_dir() or not parts or "__MACOSX" in parts:  # metadata of macOS
            continue
        if entry.flag_bits & 1:
            raise MGMError(f"{archive}: encrypted; unpack it by hand")
        if entry.compress_type not in _ZIP_METHODS:
            raise MGMError(
                f"{archive}: uses an unsupported compression (zip method {entry.compress_type}); "
                "unpack it by hand"
            )
        yield _Member(parts, entry.file_size, lambda entry=entry: content.open(entry))


def _tar_members(archive: Path, stack: ExitStack) -> Iterator[_Member]:
    content = stack.enter_context(tarfile.open(archive))  # noqa: SIM115
    for entry in content:
        parts = _parts(archive, entry.name)
        if entry.isdir() or not parts:
            continue
        if not entry.isreg():
            raise MGMError(f"{archive}: contains a link or device, {entry.name}")
        yield _Member(parts, entry.size, lambda entry=entry: _open_entry(content, entry))
    _check_end(content)


def _check_end(content: tarfile.TarFile) -> None:
    """Read a tar archive to its end, to verify the checksum of its compression.

    `tarfile` treats a damaged header and the end of a truncated file as the regular end.

    Raises:
        tarfile.ReadError: no block of zeros ends it (POSIX.1, pax, "ustar Interchange Format").
    """
    file = content.fileobj
    if file is None:
        raise tarfile.ReadError("closed")
    file.seek(content.offset)  # offset of the block after the last member
    block = file.read(tarfile.BLOCKSIZE)
    while file.read(UNPACK_CHUNK):
        pass
    if block != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError("truncated")


def _open_entry(content: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    file = content.extractfile(entry)
    if file is None:
        raise tarfile.ReadError(f"{entry.name} is not a file")
    return file


def _parts(archive: Path, name: str) -> tuple[str, ...]:
    """The components of a path in an archive.

    Raises:
        MGMError: it leads outside the folder, or is not valid on every file system.
    """
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if name.startswith("/") or ".." in parts:
        raise MGMError(f"{archive}: would write {name!r}, outside its folder")
    if len(parts) > MAX_DEPTH or any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in parts):
        raise MGMError(
            f"{archive}: contains a path that is too long, {name!r:.60}; unpack it by hand"
        )
    if any(character in name for character in "\\:\0"):
        raise MGMError(f"{archive}: contains {name!r}, which is not a portable file name")
    return parts


def _readable(archive: Path, read: Callable[[], Read]) -> Read:
    """Call `read`, with errors of damaged archives as an MGMError.

    Raises:
        MGMError: the archive is damaged.
    """
    try:
        return read()
    except MGMError:
        raise
    except DAMAGE_ERRORS as error:
        raise _damaged(archive, error) from error


def _damaged(archive: Path, reason: object) -> MGMError:
    return MGMError(f"{archive}: damaged archive ({reason}); delete it and run again")

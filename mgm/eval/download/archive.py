"""Archives, of which only what is wanted is unpacked, and nothing strange."""

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
MAX_RATIO = 100  # of what is unpacked to the archive
MIN_BOUND = 2**30  # bytes that any archive may unpack to
MAX_MEMBERS = 5_000_000
CHUNK = 2**20  # bytes
DAMAGED = (
    *(EOFError, NotImplementedError, RuntimeError, UnicodeError, ValueError, gzip.BadGzipFile),
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error),
)

ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")  # a file in it, or the end where there is none
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
MAX_NAME = 255  # bytes of one part of a path on the usual file systems
MAX_DEPTH = 64  # folders within one another

Read = TypeVar("Read")


@dataclass(frozen=True)
class _Member:
    """A file in an archive, of a name that is safe."""

    parts: tuple[str, ...]
    size: int
    open: Callable[[], IO[bytes]]


def is_archive(name: str) -> bool:
    """Whether a file of this name is an archive."""
    return name.lower().endswith((*SUFFIXES, *BY_HAND))


def unpack(archive: Path, name: str, folder: Path, wanted: Sequence[str]) -> None:
    """Unpack what is wanted into a folder.

    It is unpacked beside them, and renamed when all is done: a kill leaves nothing half-done.

    Args:
        archive: the file.
        name: that it has where it comes from; errors call it so.
        folder: that gets it.
        wanted: paths below the folder; the archive may hold them below other folders. The first
            has to be in it, others may.

    Raises:
        MGMError: it is damaged, encrypted or strange, too large, or does not hold the first once.
    """
    if name.lower().endswith(BY_HAND):
        raise MGMError(
            f"{archive}: is an archive of a kind that is unpacked by hand, into {folder}"
        )
    part = folder / f".{name}.unpacking"
    with write_errors(folder):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            with _members(archive, name) as members:
                found = _unpack(archive, members, part, wanted)
            for path in reversed(found):  # the first comes last: where it is, all are
                target = folder / path
                if not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    (part / path).rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _unpack(
    archive: Path, members: Sequence[_Member], part: Path, wanted: Sequence[str]
) -> list[str]:
    """Unpack into a fresh folder; returns what was found.

    Raises:
        MGMError: it does not hold the first, or more than one of that name.
    """
    found = []
    for path in wanted:
        locations = _locations(PurePosixPath(path).parts, members)
        if len(locations) != 1:
            if path == wanted[0]:
                shown = ", ".join("/".join(one) for one in locations[:3])
                what = f"several of the name {path} ({shown})" if locations else f"no {path}"
                target = part.parent / path
                raise MGMError(f"{archive}: holds {what}; put it to {target} by hand")
            continue
        (at,) = locations
        found.append(path)
        for member in members:
            if member.parts[: len(at)] == at:
                target = part.joinpath(path, *member.parts[len(at) :])
                target.parent.mkdir(parents=True, exist_ok=True)
                _copy(archive, member, target)
    return found


def _copy(archive: Path, member: _Member, target: Path) -> None:
    written = 0
    with _readable(archive, member.open) as source, target.open("xb") as file:
        while chunk := _readable(archive, lambda: source.read(CHUNK)):
            written += len(chunk)
            if written > member.size:
                raise MGMError(f"{archive}: {'/'.join(member.parts)} is larger than it says")
            file.write(chunk)
    if written != member.size:
        raise _damaged(archive, "it ends too early")


def _locations(path: tuple[str, ...], members: Sequence[_Member]) -> list[tuple[str, ...]]:
    """Where an archive may have a path: as it is, or else all that end like it, or in its name."""
    found: list[tuple[str, ...]] = []
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
        found = found or sorted(candidates)
    return found


@contextmanager
def _members(archive: Path, name: str) -> Generator[list[_Member]]:
    """The files in an archive.

    Raises:
        MGMError: it is damaged, or one of them is encrypted, strange or too large.
    """
    with ExitStack() as stack:
        is_zip = _readable(archive, lambda: _is_zip(archive, name))
        read = _of_zip if is_zip else _of_tar
        bound = max(MIN_BOUND, MAX_RATIO * archive.stat().st_size)
        free = shutil.disk_usage(archive.parent).free
        members: list[_Member] = []
        names: set[tuple[str, ...]] = set()
        total = 0
        for member in _all(archive, read(archive, stack)):
            total += member.size
            if total > bound or len(names) >= MAX_MEMBERS:
                raise MGMError(
                    f"{archive}: holds more than {bound >> 30} GiB or {MAX_MEMBERS} files, which "
                    f"is no benchmark; unpack it by hand if you trust it"
                )
            if total > free:
                raise MGMError(f"{archive}: there is no room to unpack it; make some, run again")
            if member.parts in names:
                raise MGMError(f"{archive}: holds {'/'.join(member.parts)} twice")
            names.add(member.parts)
            members.append(member)
        for parts in names:
            if any(parts[:end] in names for end in range(1, len(parts))):
                raise MGMError(f"{archive}: holds {'/'.join(parts)} below a file")
        yield members


def _is_zip(archive: Path, name: str) -> bool:
    """Whether it is read as a zip archive: by its first bytes, or else by its name.

    `zipfile.is_zipfile` also finds one in a tar archive whose last file is a zip archive.
    """
    with archive.open("rb") as file:
        start = file.read(len(ZIP_STARTS[0]))
    return start in ZIP_STARTS or (
        name.lower().endswith(".zip") and not tarfile.is_tarfile(archive)
    )


def _all(archive: Path, members: Iterator[_Member]) -> Iterator[_Member]:
    while (member := _readable(archive, lambda: next(members, None))) is not None:
        yield member


def _of_zip(archive: Path, stack: ExitStack) -> Iterator[_Member]:
    content = stack.enter_context(zipfile.ZipFile(archive))
    for one in content.infolist():
        mode = one.external_attr >> 16
        parts = _parts(archive, one.orig_filename)
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise MGMError(f"{archive}: holds {one.filename}, which is a link or a device")
        if one.is_dir() or not parts or "__MACOSX" in parts:  # which holds no file's content
            continue
        if one.flag_bits & 1:
            raise MGMError(f"{archive}: is encrypted; unpack it by hand")
        if one.compress_type not in _ZIP_METHODS:
            raise MGMError(
                f"{archive}: is compressed in a way that Python cannot read (zip method "
                f"{one.compress_type}); unpack it by hand"
            )
        yield _Member(parts, one.file_size, lambda one=one: content.open(one))


def _of_tar(archive: Path, stack: ExitStack) -> Iterator[_Member]:
    content = stack.enter_context(tarfile.open(archive))  # noqa: SIM115
    for one in content:
        parts = _parts(archive, one.name)
        if one.isdir() or not parts:
            continue
        if not one.isreg():
            raise MGMError(f"{archive}: holds {one.name}, which is a link or a device")
        yield _Member(parts, one.size, lambda one=one: _opened(content, one))
    _check_end(content)


def _check_end(content: tarfile.TarFile) -> None:
    """Read a tar archive to its end, where its compression keeps the check sum of all of it.

    `tarfile` stops at a damaged header, or at the end of a cut file, as at a good end.

    Raises:
        tarfile.ReadError: no block of zeros ends it (POSIX.1, pax, "ustar Interchange Format").
    """
    file = content.fileobj
    if file is None:
        raise tarfile.ReadError("it is closed")
    file.seek(content.offset)  # of the block that `tarfile` took for no header
    block = file.read(tarfile.BLOCKSIZE)
    while file.read(CHUNK):
        pass
    if block != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it ends too early")


def _opened(content: tarfile.TarFile, one: tarfile.TarInfo) -> IO[bytes]:
    file = content.extractfile(one)
    if file is None:
        raise tarfile.ReadError(f"{one.name} is no file")
    return file


def _parts(archive: Path, name: str) -> tuple[str, ...]:
    """The parts of a name.

    Raises:
        MGMError: it would be outside of the folder, or is none everywhere.
    """
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if name.startswith("/") or ".." in parts:
        raise MGMError(f"{archive}: would write {name!r}, outside of its folder")
    if len(parts) > MAX_DEPTH or any(len(os.fsencode(part)) > MAX_NAME for part in parts):
        raise MGMError(f"{archive}: holds a name that is too long, {name!r:.60}; unpack it by hand")
    if any(character in name for character in "\\:\0"):
        raise MGMError(f"{archive}: holds {name!r}, which is no name of a file everywhere")
    return parts


def _readable(archive: Path, read: Callable[[], Read]) -> Read:
    """What is read of an archive.

    Raises:
        MGMError: it is damaged.
    """
    try:
        return read()
    except MGMError:
        raise
    except DAMAGED as error:
        raise _damaged(archive, error) from error


def _damaged(archive: Path, why: object) -> MGMError:
    return MGMError(f"{archive}: is a damaged archive ({why}); delete it, and run again")

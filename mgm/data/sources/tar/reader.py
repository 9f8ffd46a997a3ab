"""Reads WebDataset tars: files of one name, but for their extensions, are one record.

`tarfile` takes whatever is no header for the end of an archive: the end of a file that was cut off
between two members, too. Here a tar ends with the block of zeros that every writer puts there.
"""

import bz2
import gzip
import io
import lzma
import re
import tarfile
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, cast

from mgm.data.sources.file_kind import HEAD_BYTES, RejoinedFile, encoding_error, foreign_kind
from mgm.data.sources.formats.record import CAPTIONS
from mgm.data.sources.json.json_file import decode_json
from mgm.data.sources.sample import SampleError
from mgm.errors import MGMError

BLOCK_BYTES = tarfile.BLOCKSIZE
CHUNK_BYTES = 2**20  # that are read at once where they are passed over

# As the webdataset library cuts names: what stands before the first dot of the file's own name.
_MEMBER = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)")
_TEXT = re.compile(r"(.+)\.txt")  # "system.txt" holds the field "system" of its sample
_PACKED = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\x00", lzma.open))

Member = tuple[str, str, tarfile.TarInfo]  # name of its sample, its ending, and where it is


class TruncatedTarError(MGMError):
    """A tar has no mark of its end: the rest of it is missing."""


class TarReader:
    """The samples of an open tar, plain or compressed with gzip, bzip2 or xz.

    Args:
        content: of the tar, from its beginning.
        name: of the tar; errors begin with it.
        can_seek: whether `content` can go to any byte at once, so that members of a plain tar are
            passed over without being read.

    Attributes:
        archive: the tar itself.

    Raises:
        MGMError: it is empty, or another kind of file.
        tarfile.ReadError: it does not begin as a tar does.
    """

    def __init__(self, content: BinaryIO, name: str, can_seek: bool = True) -> None:
        self.name = name
        content, is_plain = _unpacked(content, name, can_seek)
        self._blocks = _Blocks(content, can_seek and is_plain)
        blocks = cast(BinaryIO, self._blocks)
        self.archive = tarfile.open(fileobj=blocks, mode="r:")  # noqa: SIM115  is read later

    def members(self) -> Iterator[Member]:
        """The files that belong to samples, in their order.

        Raises:
            MGMError: the tar is cut off or damaged, or more follows its end.
            tarfile.ReadError: it ends within a member.
        """
        last = "its beginning"
        for member in self.archive:
            self.archive.members = []  # ty: ignore[missing-attribute]  it would grow with the file
            last = member.name
            if member.isfile() and (name := _MEMBER.fullmatch(member.name)):
                yield name.group(1), name.group(2).lower(), member
        self._check_end(last)

    def record(self, members: Iterable[Member], where: str) -> Any:
        """The record that the members of one sample are, or the error that reading it gave.

        Args:
            members: of one sample.
            where: what errors begin with.
        """
        row: dict[str, Any] = {}
        stored: dict[str, Any] = {}  # in the JSON
        for _, ending, member in members:
            content = cast(BinaryIO, self.archive.extractfile(member)).read()
            field = _text_field(ending)
            if ending != "json" and field is None:
                row[ending] = content
                continue
            try:
                text = content.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                return SampleError(f"{where}: {member.name} {encoding_error(error)}")
            if field is not None:
                row[field] = text
                continue
            try:
                value = decode_json(text, where)
            except SampleError as fault:
                return fault
            stored = value if isinstance(value, dict) else {"conversations": value}
        for field, text in row.items():
            other = stored.get(field)
            if isinstance(text, str) and other is not None and other != text:
                return SampleError(
                    f"{where}: its text file and its JSON differ in {field!r}; keep one of them"
                )
        return stored | row

    def _check_end(self, last: str) -> None:
        """Find out whether the mark of the end is where `tarfile` saw the end.

        Args:
            last: name of the last member.

        Raises:
            MGMError: it is not, or more follows it.
        """
        block = self._blocks.last_read
        if len(block) < BLOCK_BYTES:
            raise TruncatedTarError(
                f"{self.name}: ends without the mark of its end, after {last!r:.80}; get a whole "
                "copy"
            )
        at = self._blocks.tell() - BLOCK_BYTES
        if block.strip(b"\0"):
            raise MGMError(
                f"{self.name}: is damaged after {last!r:.80}: byte {at:,} begins no member; get a "
                "whole copy"
            )
        while chunk := self._blocks.read(CHUNK_BYTES):
            if chunk.strip(b"\0"):
                raise MGMError(
                    f"{self.name}: holds more after the mark of its end (byte {at:,}), as tars do "
                    "that were joined with cat; give each tar by itself, or pack them anew"
                )


def _text_field(ending: str) -> str | None:
    """The field of a record that a member of this ending is the text of; None: it is no text."""
    if ending in CAPTIONS:
        return ending
    match = _TEXT.fullmatch(ending)
    return None if match is None else match[1]


def decompress_tar(content: BinaryIO, name: str) -> BinaryIO:
    """A tar without its compression, to be read from its beginning; see `TarReader`."""
    return _unpacked(content, name, can_seek=True)[0]


def _unpacked(content: BinaryIO, name: str, can_seek: bool) -> tuple[BinaryIO, bool]:
    """The same, with whether it was not compressed.

    Raises:
        MGMError: it is empty, or another kind of file.
    """
    head = b""
    while len(head) < HEAD_BYTES and (chunk := content.read(HEAD_BYTES - len(head))):
        head += chunk
    _check_kind(head, name)
    if can_seek:
        content.seek(0)
    else:
        content = cast(BinaryIO, io.BufferedReader(RejoinedFile(head, content), CHUNK_BYTES))
    for magic, opened in _PACKED:
        if head.startswith(magic):
            return cast(BinaryIO, opened(content, "rb")), False
    return content, True


def _check_kind(head: bytes, name: str) -> None:
    """Find out whether a file is another kind than its name says.

    Raises:
        MGMError: it is; says which.
    """
    if not head:
        raise MGMError(f"{name}: cannot be read (it is empty); get a whole copy")
    if any(head.startswith(magic) for magic, _ in _PACKED) or _begins_tar(head):
        return
    kind = foreign_kind(head)
    if kind is not None and head.strip(b"\0"):
        raise MGMError(f"{name}: is no tar; it is {kind}")
    if head[:1] in (b"{", b"["):
        raise MGMError(f"{name}: is no tar; it is JSON, whose name ends in .json or .jsonl")


def _begins_tar(head: bytes) -> bool:
    """Whether a file begins with a member of a tar; those of before POSIX have no mark."""
    if head[257:262] == b"ustar":
        return True
    try:
        tarfile.TarInfo.frombuf(head[:BLOCK_BYTES], "utf-8", "replace")
    except tarfile.HeaderError:
        return False
    return True


class _Blocks:
    """Bytes of a tar, as `tarfile` reads them.

    Attributes:
        last_read: what the last call of `read` gave; at the end of an archive it is the block in
            which `tarfile` looked for another header.
    """

    def __init__(self, content: BinaryIO, can_seek: bool) -> None:
        self._content, self._can_seek = content, can_seek
        self._at = 0
        self.last_read = b""

    def read(self, size: int = -1) -> bytes:
        """The next `size` bytes, fewer at the end."""
        self.last_read = self._content.read(size)
        self._at += len(self.last_read)
        return self.last_read

    def tell(self) -> int:
        """How many bytes stand before the next one."""
        return self._at

    def seek(self, position: int) -> int:
        """Go to a byte: forward only, where the content can be read but once."""
        if self._can_seek:
            self._at = self._content.seek(position)
            return self._at
        while self._at < position and self.read(min(CHUNK_BYTES, position - self._at)):
            pass
        if self._at > position:
            raise tarfile.StreamError("seeking backwards is not allowed")
        return self._at

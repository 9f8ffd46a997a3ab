"""Reads WebDataset tars: files with the same name except the extension are one record.

`tarfile` takes an invalid header, or the end of a file that is truncated between two members, for
the end of the archive. This reader requires the block of zeros that all writers append.
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
CHUNK_BYTES = 2**20  # read at a time while skipping

# As in the webdataset library, the extension begins at the first dot of the file name.
_MEMBER = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)")
_TEXT = re.compile(r"(.+)\.txt")  # "system.txt" is the field "system" of its sample
_PACKED = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\x00", lzma.open))

Member = tuple[str, str, tarfile.TarInfo]  # name of its sample, extension, and tar header


class TruncatedTarError(MGMError):
    """A truncated tar: its end-of-archive block is missing."""


class TarReader:
    """The records of an open tar, uncompressed or compressed with gzip, bzip2 or xz.

    Args:
        content: the open file, at its start.
        name: prefix of errors.
        can_seek: whether `content` is seekable, so that members of an uncompressed tar can be
            skipped without reading them.

    Attributes:
        archive: the open `tarfile.TarFile`.

    Raises:
        MGMError: the file is empty, or of another kind.
        tarfile.ReadError: the file does not start with a tar header.
    """

    def __init__(self, content: BinaryIO, name: str, can_seek: bool = True) -> None:
        self.name = name
        content, is_plain = _unpacked(content, name, can_seek)
        self._blocks = _Blocks(content, can_seek and is_plain)
        blocks = cast(BinaryIO, self._blocks)
        self.archive = tarfile.open(fileobj=blocks, mode="r:")  # noqa: SIM115  is read later

    def members(self) -> Iterator[Member]:
        """The members that belong to samples, in the order of the tar.

        Raises:
            MGMError: the tar is truncated or damaged, or data follows its end.
            tarfile.ReadError: it ends within a member.
        """
        last = "the start of the file"
        for member in self.archive:
            self.archive.members = []  # ty: ignore[missing-attribute]  saves memory
            last = member.name
            if member.isfile() and (name := _MEMBER.fullmatch(member.name)):
                yield name.group(1), name.group(2).lower(), member
        self._check_end(last)

    def record(self, members: Iterable[Member], where: str) -> Any:
        """Read the record of the members of one sample; returns the error if that fails.

        Args:
            members: members of one sample.
            where: prefix of errors.
        """
        row: dict[str, Any] = {}
        stored: dict[str, Any] = {}  # fields of the JSON
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
                    f"{where}: {field!r} differs between its text file and its JSON; keep one"
                )
        return stored | row

    def _check_end(self, last: str) -> None:
        """Check that the end-of-archive block is where `tarfile` stopped.

        Args:
            last: name of the last member.

        Raises:
            MGMError: it is not, or data follows it.
        """
        block = self._blocks.last_read
        if len(block) < BLOCK_BYTES:
            raise TruncatedTarError(
                f"{self.name}: is truncated after {last!r:.80} (no end-of-archive block); download "
                "or copy it again"
            )
        at = self._blocks.tell() - BLOCK_BYTES
        if block.strip(b"\0"):
            raise MGMError(
                f"{self.name}: is damaged after {last!r:.80} (no member header at byte {at:,}); "
                "download or copy it again"
            )
        while chunk := self._blocks.read(CHUNK_BYTES):
            if chunk.strip(b"\0"):
                raise MGMError(
                    f"{self.name}: has data after its end-of-archive block (byte {at:,}), like "
                    "tars joined with cat; give each tar as a file of its own"
                )


def _text_field(ending: str) -> str | None:
    """The text field of a record for a member with this extension; None: not a text field."""
    if ending in CAPTIONS:
        return ending
    match = _TEXT.fullmatch(ending)
    return None if match is None else match[1]


def decompress_tar(content: BinaryIO, name: str) -> BinaryIO:
    """Open a tar, compressed or not, as an uncompressed stream; see `TarReader`."""
    return _unpacked(content, name, can_seek=True)[0]


def _unpacked(content: BinaryIO, name: str, can_seek: bool) -> tuple[BinaryIO, bool]:
    """Open a tar as an uncompressed stream; also returns whether the file is uncompressed.

    Raises:
        MGMError: the file is empty, or of another kind.
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
    """Check that a file is a tar, compressed or not.

    Raises:
        MGMError: names the kind of another file.
    """
    if not head:
        raise MGMError(f"{name}: is empty; download or copy it again")
    if any(head.startswith(magic) for magic, _ in _PACKED) or _begins_tar(head):
        return
    kind = foreign_kind(head)
    if kind is not None and head.strip(b"\0"):
        raise MGMError(f"{name}: is not a tar archive but {kind}")
    if head[:1] in (b"{", b"["):
        raise MGMError(
            f"{name}: is not a tar archive but JSON; rename it to end in .json or .jsonl"
        )


def _begins_tar(head: bytes) -> bool:
    """Whether a file starts with a tar header; pre-POSIX headers have no magic bytes."""
    if head[257:262] == b"ustar":
        return True
    try:
        tarfile.TarInfo.frombuf(head[:BLOCK_BYTES], "utf-8", "replace")
    except tarfile.HeaderError:
        return False
    return True


class _Blocks:
    """File object for `tarfile` that records the last read.

    Attributes:
        last_read: bytes of the last `read`; at the end of an archive the block in which `tarfile`
            expected another header.
    """

    def __init__(self, content: BinaryIO, can_seek: bool) -> None:
        self._content, self._can_seek = content, can_seek
        self._at = 0
        self.last_read = b""

    def read(self, size: int = -1) -> bytes:
        """Read `size` bytes, fewer at the end."""
        self.last_read = self._content.read(size)
        self._at += len(self.last_read)
        return self.last_read

    def tell(self) -> int:
        """The current offset."""
        return self._at

    def seek(self, position: int) -> int:
        """Move to an offset; forward only if the content is not seekable."""
        if self._can_seek:
            self._at = self._content.seek(position)
            return self._at
        while self._at < position and self.read(min(CHUNK_BYTES, position - self._at)):
            pass
        if self._at > position:
            raise tarfile.StreamError("seeking backwards is not allowed")
        return self._at

"""Detects the type of a file by its first bytes (magic numbers), for errors about wrong files."""

import codecs
import io
from pathlib import Path
from typing import Any, BinaryIO

HEAD_BYTES = 4096  # read for detection

_KINDS = (
    (b"\x1f\x8b", "a gzip archive; decompress it (gunzip)"),
    (b"PK\x03\x04", "a zip archive or a spreadsheet; extract it"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive; decompress it (unzstd)"),
    (b"BZh", "a bzip2 archive; decompress it (bunzip2)"),
    (b"\xfd7zXZ\x00", "an xz archive; decompress it (unxz)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; extract it"),
    (b"PAR1", "a parquet table; rename it to end in .parquet"),
    (b"ARROW1", "an arrow table; rename it to end in .arrow"),
    (b"\xff\xff\xff\xff", "an arrow stream; rename it to end in .arrow"),
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the data; download the data (git lfs pull)",
    ),
    (b"\xff\xd8\xff", "a JPEG image; give a data file"),
    (b"\x89PNG", "a PNG image; give a data file"),
    (b"GIF8", "a GIF image; give a data file"),
    (b"%PDF", "a PDF; give a data file"),
    (b"SQLite format 3", "a SQLite database; export its rows to JSONL"),
    (b"\x93NUMPY", "a numpy array; give a data file"),
    (b"\x89HDF", "an HDF5 file; export its samples to JSONL"),
    (b"\x80\x04", "a Python pickle, which is never loaded; export its samples to JSONL"),
)
_BYTE_ORDER_MARKS = (  # longer ones first: that of UTF-32 starts with that of UTF-16
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_EAST_ASIAN = ("GBK, Big5 or Shift JIS", "GBK")  # likely encodings, and the one for iconv
_EUROPEAN = ("Latin-1 or Windows-1252", "WINDOWS-1252")
_TAR_MAGIC = slice(257, 262)
_MARKUP = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")


class RejoinedFile(io.RawIOBase):
    """A non-seekable file whose first bytes were read: reads these first, then the rest."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        """True, as `io.RawIOBase` requires."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes into a buffer; returns their number."""
        chunk = self._head[: len(buffer)] or self._rest.read(len(buffer))
        self._head = self._head[len(chunk) :]
        buffer[: len(chunk)] = chunk
        return len(chunk)


def read_head(file: Path) -> bytes:
    """Read the first bytes of a file; raises OSError."""
    with file.open("rb") as content:
        return content.read(HEAD_BYTES)


def foreign_kind(head: bytes) -> str | None:
    """The kind of a file that is not UTF-8 text, with a remedy; None: it may be UTF-8 text.

    Args:
        head: its first bytes.
    """
    if not head:
        return "empty; download or copy it again"
    for mark, name in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return f"{name} text; save it in UTF-8 (iconv -f {name} -t UTF-8 FILE > NEW)"
    for magic, kind in _KINDS:
        if head.startswith(magic):
            return kind
    if head[_TAR_MAGIC] == b"ustar":
        return (
            "a tar archive; rename it to end in .tar, and train with --streaming True --max_steps N"
        )
    if head.lstrip(codecs.BOM_UTF8 + b" \t\r\n")[:9].lower().startswith(_MARKUP):
        return "an HTML or XML page, perhaps of a failed download; download the file again"
    if b"\0" in head:
        if not head.strip(b"\0"):
            return "all NUL bytes, as after a failed download; download or copy it again"
        if head[:1] == b"\0" or head[1:2] == b"\0":
            return "UTF-16 text without a byte order mark; save it in UTF-8 (iconv -f UTF-16LE)"
        if head[:1] in (b"[", b"{"):
            return None  # damaged JSON
        return "binary (it contains NUL bytes); give a data file, or download it again"
    return None


def encoding_error(error: UnicodeDecodeError, offset: int = 0) -> str:
    """The error message for text that is not UTF-8, with a remedy.

    Args:
        error: raised by decoding.
        offset: offset of the decoded bytes in the file.
    """
    if "end of data" in error.reason:
        names, name = _EUROPEAN
        return (
            f"ends within a UTF-8 character, at byte {offset + error.start:,}; copy it again or, "
            f"if it is {names}, save it in UTF-8 (iconv -f {name} -t UTF-8 FILE > NEW)"
        )
    first, after = error.object[error.start], error.object[error.start + 1 : error.start + 2]
    # European letters stand between ASCII ones; East Asian characters have two non-ASCII bytes.
    names, name = _EUROPEAN if after.isascii() else _EAST_ASIAN
    return (
        f"is not UTF-8 (byte 0x{first:02x} at {offset + error.start:,}) but perhaps {names}; save "
        f"it in UTF-8 (iconv -f {name} -t UTF-8 FILE > NEW)"
    )

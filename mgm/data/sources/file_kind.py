"""Detects the kind of a file by its first bytes, for errors about a file of another kind."""

import codecs
import io
from pathlib import Path
from typing import Any, BinaryIO

HEAD_BYTES = 4096  # read for detection

_KINDS = (
    (b"\x1f\x8b", "a gzip archive; unpack it (gunzip)"),
    (b"PK\x03\x04", "a zip archive (or a spreadsheet); unpack it"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive; unpack it (unzstd)"),
    (b"BZh", "a bzip2 archive; unpack it (bunzip2)"),
    (b"\xfd7zXZ\x00", "an xz archive; unpack it (unxz)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it"),
    (b"PAR1", "a parquet table; let its name end in .parquet"),
    (b"ARROW1", "an arrow table; let its name end in .arrow"),
    (b"\xff\xff\xff\xff", "an arrow stream; let its name end in .arrow"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the data; fetch it (git lfs pull)"),
    (b"\xff\xd8\xff", "a JPEG image; name a data file"),
    (b"\x89PNG", "a PNG image; name a data file"),
    (b"GIF8", "a GIF image; name a data file"),
    (b"%PDF", "a PDF; give a data file"),
    (b"SQLite format 3", "a SQLite database; export its rows as JSON lines"),
    (b"\x93NUMPY", "a numpy array; give a data file"),
    (b"\x89HDF", "an HDF5 file; export its samples as JSON lines"),
    (b"\x80\x04", "a Python pickle, which is never opened; write it as JSON lines"),
)
_MARKS = (  # byte order marks, longer ones first: that of UTF-32 starts with that of UTF-16
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_WIDE = ("GBK, Big5 or Shift JIS", "GBK")  # likely encodings, and the one for iconv
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
    """The kind of a file that is not UTF-8 text, and how to fix it; None: it may be UTF-8 text.

    Args:
        head: its first bytes.
    """
    if not head:
        return "empty; get a whole copy"
    for mark, name in _MARKS:
        if head.startswith(mark):
            return f"text in {name}; save it in UTF-8 (iconv -f {name} -t UTF-8 FILE > NEW)"
    for magic, kind in _KINDS:
        if head.startswith(magic):
            return kind
    if head[_TAR_MAGIC] == b"ustar":
        return "a tar; let its name end in .tar, and train with --streaming True --max_steps N"
    if head.lstrip(codecs.BOM_UTF8 + b" \t\r\n")[:9].lower().startswith(_MARKUP):
        return "a page of HTML or XML, perhaps of a failed download; get the file anew"
    if b"\0" in head:
        if not head.strip(b"\0"):
            return "NUL bytes alone, as a broken download or disk leaves; get a whole copy"
        if head[:1] == b"\0" or head[1:2] == b"\0":
            return "text in UTF-16 without its mark; save it in UTF-8 (iconv -f UTF-16LE -t UTF-8)"
        if head[:1] in (b"[", b"{"):
            return None  # damaged JSON
        return "binary: it holds NUL bytes; get a whole copy, or give a data file"
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
            f"ends within a character, at byte {offset + error.start:,}; get a whole copy, or, if "
            f"it is {names}, save it in UTF-8 (iconv -f {name} -t UTF-8 FILE > NEW)"
        )
    first, after = error.object[error.start], error.object[error.start + 1 : error.start + 2]
    # European letters stand between ASCII ones; East Asian characters have two non-ASCII bytes.
    wide = not after.isascii()
    names, name = _WIDE if wide else _EUROPEAN
    return (
        f"is not UTF-8 (byte 0x{first:02x} at {offset + error.start:,}), perhaps {names}; save it "
        f"in UTF-8 (iconv -f {name} -t UTF-8 FILE > NEW)"
    )

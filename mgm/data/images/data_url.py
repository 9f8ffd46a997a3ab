"""Decodes data URLs (RFC 2397) and base64 text to bytes."""

import binascii
import re
import urllib.parse

from mgm.errors import MGMError, one_line

MAX_DECODED_BYTES = 256 * 2**20  # maximum size of decoded content

MIN_BASE64 = 64  # characters of the shortest image file in base64
MAX_PATH = 4096  # maximum characters of a path on common file systems

# Magic bytes of image files; ISO media files (AVIF) are checked in `looks_like_base64`.
_SIGNATURES = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"qoif",
    b"\0\0\1\0", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51", b"8BPS",
)  # fmt: skip
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]*={0,2}\s*")
_STANDARD = str.maketrans("-_", "+/")


def decode_data_url(text: str, name: str, max_bytes: int = MAX_DECODED_BYTES) -> bytes:
    """Decode a data URL to bytes.

    Args:
        text: `data:[<media type>][;<parameter>]*[;base64],<content>` in upper or lower case. The
            content may be percent-encoded and contain line breaks; its base64 may use the URL-safe
            alphabet and omit the padding. A fragment (`#...`) is ignored.
        name: name of the image in errors.
        max_bytes: maximum size of the content.

    Raises:
        MGMError: not a data URL, or larger than `max_bytes`.
    """
    head, comma, body = text.partition(",")
    scheme, _, media = head.partition(":")
    if not comma or scheme.strip().lower() != "data":
        raise _invalid(name, "no comma" if scheme.strip().lower() == "data" else "no data: scheme")
    body = body.partition("#")[0]
    try:
        if "base64" in (part.strip().lower() for part in media.split(";")[1:]):
            body = urllib.parse.unquote(body) if "%" in body else body
            return _from_base64(body, name, max_bytes)
        content = urllib.parse.unquote_to_bytes(body.translate({9: None, 10: None, 13: None}))
    except (binascii.Error, UnicodeEncodeError) as error:
        raise _invalid(name, one_line(error)) from error
    if len(content) > max_bytes:
        raise _too_large(name, max_bytes)
    return content


def decode_base64(text: str, name: str, max_bytes: int = MAX_DECODED_BYTES) -> bytes:
    """Decode a base64 text to bytes.

    Args:
        text: standard or URL-safe alphabet, with or without padding; white space is ignored.
        name: name of the image in errors.
        max_bytes: maximum size of the result.

    Raises:
        MGMError: not base64, or larger than `max_bytes`.
    """
    try:
        return _from_base64(text, name, max_bytes)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise MGMError(
            f"{name}: is not base64; give a data URL, an http(s) URL, or base64"
        ) from error


def looks_like_base64(text: str) -> bool:
    """Whether a text is base64, possibly damaged, and not a path.

    True if it starts with the magic bytes of an image file, or is too long for a path.
    """
    if len(text) < MIN_BASE64:
        return False
    head = "".join(text[:MIN_BASE64].split())
    head = head[: len(head) // 4 * 4]
    if not _BASE64.fullmatch(head):
        return False
    try:
        content = binascii.a2b_base64(head.translate(_STANDARD))
    except binascii.Error:
        return False
    begins = content.startswith(_SIGNATURES) or content[4:8] == b"ftyp"
    begins = begins or (content[:4] == b"RIFF" and content[8:12] == b"WEBP")
    begins = begins or (content[:2] == b"BM" and content[6:10] == bytes(4))
    return begins or (len(text) > MAX_PATH and bool(_BASE64.fullmatch(text)))


def _from_base64(text: str, name: str, max_bytes: int) -> bytes:
    text = "".join(text.split()).rstrip("=")
    if len(text) * 3 // 4 > max_bytes:
        raise _too_large(name, max_bytes)
    if "-" in text or "_" in text:
        text = text.translate(_STANDARD)
    text += "=" * (-len(text) % 4)
    return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)


def _invalid(name: str, reason: str) -> MGMError:
    return MGMError(
        f"{name}: is not a valid data URL ({reason:.200}); "
        "write data:image/png;base64, and the file in base64"
    )


def _too_large(name: str, max_bytes: int) -> MGMError:
    return MGMError(f"{name}: is larger than {max_bytes:,} bytes; give a smaller image file")

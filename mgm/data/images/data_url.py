"""Data URLs (RFC 2397) and base64 text to bytes."""

import binascii
import urllib.parse

from mgm.errors import MGMError, one_line

MAX_BYTES = 256 * 2**20  # of what is decoded

_STANDARD = str.maketrans("-_", "+/")


def decode_data_url(text: str, name: str, max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a data URL.

    Args:
        text: `data:[<media type>][;<parameter>]*[;base64],<content>`; letters may be of either
            case, the content may be percent-encoded and hold line breaks, and its base64 may use
            the alphabet of URLs and leave the padding out. A fragment (`#...`) does not count.
        name: which image it is; errors begin with it.
        max_bytes: of the content.

    Raises:
        MGMError: it is no data URL, or larger than `max_bytes`.
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


def decode_base64(text: str, name: str, max_bytes: int = MAX_BYTES) -> bytes:
    """What a base64 text says; as in a data URL, but without its head.

    Args:
        text: standard or URL alphabet, padded or not; white space does not count.
        name: which image it is; errors begin with it.
        max_bytes: of the result.

    Raises:
        MGMError: it is not base64, or larger than `max_bytes`.
    """
    try:
        return _from_base64(text, name, max_bytes)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise MGMError(
            f"{name}: is no base64; give a data URL, an http(s) URL, or base64"
        ) from error


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

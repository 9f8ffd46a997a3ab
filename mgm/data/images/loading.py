"""Images from wherever users have them."""

import base64
import binascii
import http.client
import io
import os
import re
import stat
import string
import struct
import time
import urllib.error
import urllib.parse
import urllib.request
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from mgm.data.images.jpeg import decode_jpeg
from mgm.errors import MGMError, one_line

ImageSource = str | os.PathLike[str] | bytes | Image.Image | np.ndarray

MAX_PIXELS = 178_956_970  # where Pillow sees a decompression bomb
MAX_SIDE = 1_000_000  # pixels; tables of weights grow with it
TIMEOUT = 20.0  # seconds without a byte from a server
MAX_SECONDS = 120.0  # of a download
MAX_BYTES = 256 * 2**20  # of a download
MAX_FILE_BYTES = 2**30  # `MAX_PIXELS` without compression, with 8 bits, fit
PIECE = 2**16  # bytes of a download between two looks at the clock

_TIFF = (b"II*\0", b"MM\0*")

# What Pillow's decoders raise on broken data.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)


def open_image(source: ImageSource, label: str = "image") -> Image.Image:
    """An RGB image, decoded completely.

    Args:
        source: a path, an http(s) or data URL, the bytes of an image file, a Pillow image, or a
            uint8 array (height, width, 3) or (height, width).
        label: which image it is, such as `image 2 of 7`; errors begin with it.

    Raises:
        MGMError: there is no image there, or it is damaged or larger than `MAX_PIXELS`.
    """
    if isinstance(source, np.ndarray):
        source = _from_array(source, label)
    if isinstance(source, Image.Image):
        return _to_rgb(source, label)
    return decode_image(*image_file(source, label))


def image_file(source: str | os.PathLike[str] | bytes, label: str) -> tuple[bytes, str]:
    """The bytes of an image file, and what errors call it.

    Args:
        source: a path, an http(s) or data URL, or the bytes themselves.
        label: which image it is.

    Raises:
        MGMError: there is nothing to read.
    """
    if isinstance(source, bytes):
        return source, f"{label}: {len(source)} bytes"
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        name = f"{label}: {text if len(text) <= 200 else text[:80] + '…'}"
        return _read(text, name), name
    raise MGMError(
        f"{label}: is of type {type(source).__name__}; give a path, an http(s) or data URL, "
        "the bytes of an image file, a Pillow image or a uint8 array (height, width, 3)"
    )


def decode_image(content: bytes, name: str) -> Image.Image:
    """An RGB image from the bytes of its file, decoded completely.

    Args:
        content: the file's.
        name: what errors call it.

    Raises:
        MGMError: there is no image there, or it is damaged or larger than `MAX_PIXELS`.
    """
    if not content:
        raise MGMError(f"{name}: is empty; give an image file")
    decoded = decode_jpeg(content, MAX_PIXELS, MAX_SIDE)
    if decoded is not None:
        return decoded
    try:
        # Pillow warns of what it doubts; here an image is either fine or an error.
        with warnings.catch_warnings(action="ignore"):
            image = Image.open(io.BytesIO(content))
    except UnidentifiedImageError as error:
        if content.startswith(_TIFF):  # Pillow follows its directory to the end of the file
            raise _damaged(name, error) from error
        raise MGMError(
            f"{name}: is not an image that Pillow knows; give a PNG, JPEG, WebP, GIF, BMP or TIFF"
        ) from error
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        raise _too_large(name, f"has {int(pixels[0]):,} pixels" if pixels else "is huge") from error
    except _BROKEN as error:
        raise _damaged(name, error) from error
    return _to_rgb(image, name)


def image_list(images: Any) -> list[Any]:
    """Images as a list; one that is in no list or tuple becomes a list of its own."""
    return list(images) if isinstance(images, list | tuple) else [images]


def _from_array(pixels: np.ndarray, label: str) -> Image.Image:
    if pixels.dtype != np.uint8 or pixels.shape[2:] not in ((), (3,)) or pixels.ndim < 2:
        raise MGMError(
            f"{label}: is an array of {pixels.dtype} and shape {pixels.shape}; give uint8 "
            "(height, width, 3) or (height, width)"
        )
    return Image.fromarray(pixels)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if 0 in image.size:
        raise MGMError(f"{name}: is {image.width} x {image.height}, without a pixel; give another")
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(name, f"is {image.width} x {image.height}")
    if max(image.size) > MAX_SIDE:
        raise MGMError(
            f"{name}: is {image.width} x {image.height}, longer than {MAX_SIDE:,} pixels; cut it up"
        )
    # Compat: the orientation that cameras note in EXIF is not applied: released models were trained
    # and evaluated on the pixels as stored. Neither is transparency: hidden colours show.
    try:
        with warnings.catch_warnings(action="ignore"):
            image.load()  # only decoding to the end finds a truncated file
            return image if image.mode == "RGB" else _convert(image, name)
    except MemoryError as error:
        raise MGMError(
            f"{name}: is {image.width} x {image.height}, more than fits into memory; "
            "scale it down first"
        ) from error
    except MGMError:
        raise
    except _BROKEN as error:
        raise _damaged(name, error) from error


def _convert(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would make white of all that is above 255
        levels = np.asarray(image) >> 8
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise MGMError(
            f"{name}: holds numbers of 32 bits (Pillow's mode {image.mode}), which do not say what "
            "is black and what is white; save it with 8 bits"
        )
    return image.convert("RGB")


def _read(text: str, name: str) -> bytes:
    scheme = text.split(":", 1)[0].lower()
    if scheme in ("http", "https"):
        return download(text, name)
    if scheme == "data":
        return _decode_data_url(text, name)
    if "://" in text:
        advice = "give the path alone" if scheme == "file" else "save it and give its path"
        raise MGMError(f"{name}: is no http(s) or data URL; {advice}")
    try:
        return _read_file(Path(text), name)
    except FileNotFoundError as error:
        raise MGMError(f"{name}: there is no such file; check the path") from error
    except IsADirectoryError as error:
        raise MGMError(f"{name}: is a folder; name an image file in it") from error
    except (OSError, ValueError) as error:
        raise MGMError(f"{name}: cannot be read ({_reason(error)}); check the path") from error


def _read_file(path: Path, name: str) -> bytes:
    found = path.stat()
    if stat.S_ISREG(found.st_mode):
        if found.st_size <= MAX_FILE_BYTES:
            return path.read_bytes()
    else:  # a pipe or a device, which may never end
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) <= MAX_FILE_BYTES:
            return content
    raise MGMError(f"{name}: is larger than {MAX_FILE_BYTES >> 30} GiB; give an image file")


def download(url: str, name: str, open_url: Callable[..., Any] = urllib.request.urlopen) -> bytes:
    """What an http(s) URL gives.

    Args:
        url: the address.
        name: which image it is; errors begin with it.
        open_url: as `urllib.request.urlopen`.

    Raises:
        MGMError: it cannot be reached, or is too large or too slow.
    """
    try:
        # Some servers turn away the default agent of urllib.
        request = urllib.request.Request(_ascii(url), headers={"User-Agent": "Mozilla/5.0 (mgm)"})
        with open_url(request, timeout=TIMEOUT) as response:
            return _received(response, name)
    except urllib.error.HTTPError as error:
        error.close()
        raise MGMError(
            f"{name}: the server answered {error.code} {_reason(error.reason)}; check the URL"
        ) from error
    except MGMError:
        raise
    except (OSError, ValueError, EOFError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise MGMError(
            f"{name}: cannot be reached ({_reason(reason)}); check the URL and the network"
        ) from error


def _received(response: http.client.HTTPResponse, name: str) -> bytes:
    started, content = time.monotonic(), bytearray()
    while piece := response.read1(PIECE):
        content += piece
        if len(content) > MAX_BYTES:
            limit = f"{MAX_BYTES >> 20} MiB"
            raise MGMError(f"{name}: is larger than {limit}; save a smaller copy first")
        if time.monotonic() - started > MAX_SECONDS:
            raise MGMError(
                f"{name}: sent {len(content):,} bytes in {MAX_SECONDS:.0f} s and no end; "
                "download it and give the file"
            )
    if response.length:  # what the server announced and did not send
        raise http.client.IncompleteRead(bytes(content), response.length)
    return bytes(content)


def _ascii(url: str) -> str:
    """`url` as servers know it: an encoded host, and %-codes for spaces and what is not ASCII."""
    parts = urllib.parse.urlsplit(url)
    parts = parts._replace(netloc=parts.netloc.encode("idna").decode("ascii"))
    return urllib.parse.quote(parts.geturl(), safe=string.punctuation)


def _decode_data_url(text: str, name: str) -> bytes:
    head, comma, body = text.partition(",")
    try:
        if not comma:
            raise ValueError("no comma")
        if head.endswith(";base64"):
            return base64.b64decode(urllib.parse.unquote(body), validate=True)
        return urllib.parse.unquote_to_bytes(body)
    except (binascii.Error, ValueError) as error:
        raise MGMError(
            f"{name}: is not a valid data URL ({_reason(error)}); "
            "write data:image/png;base64, and the file in base64"
        ) from error


def _too_large(name: str, size: str) -> MGMError:
    return MGMError(f"{name}: {size}, more than {MAX_PIXELS:,} pixels; scale it down first")


def _damaged(name: str, error: Exception) -> MGMError:
    return MGMError(f"{name}: is truncated or damaged ({_reason(error)}); get a whole copy")


def _reason(error: object) -> str:
    """What happened; not the name, which may be long and is told already."""
    return one_line(getattr(error, "strerror", None) or error)[:200]

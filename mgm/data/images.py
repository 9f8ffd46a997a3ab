"""Images from wherever users have them."""

import base64
import binascii
import io
import os
import struct
import urllib.error
import urllib.parse
import urllib.request
import warnings
import zlib
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from mgm.errors import MGMError, one_line

ImageSource = str | os.PathLike[str] | bytes | Image.Image

MAX_PIXELS = 178_956_970  # where Pillow sees a decompression bomb
TIMEOUT = 20.0  # seconds without a byte from a server
MAX_BYTES = 256 * 2**20  # of a download

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
        source: a path, an http(s) or data URL, the bytes of an image file, or a Pillow image.
        label: which image it is, such as `image 2 of sample 7`; errors begin with it.

    Raises:
        MGMError: there is no image there, or it is damaged or larger than `MAX_PIXELS`.
    """
    if isinstance(source, Image.Image):
        return _to_rgb(source, label)
    if isinstance(source, bytes):
        name, content = f"{label}: {len(source)} bytes", source
    else:
        text = os.fspath(source)
        name = f"{label}: {text if len(text) <= 200 else text[:80] + '…'}"
        content = _read(text, name)
    if not content:
        raise MGMError(f"{name}: is empty; give an image file")
    try:
        with warnings.catch_warnings():
            # Pillow warns from half the limit on; here an image is either fine or an error.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content))
    except UnidentifiedImageError as error:
        raise MGMError(
            f"{name}: is not an image that Pillow knows; give a PNG, JPEG, WebP, GIF, BMP or TIFF"
        ) from error
    except Image.DecompressionBombError as error:
        raise _too_large(name) from error
    except _BROKEN as error:
        raise _damaged(name, error) from error
    return _to_rgb(image, name)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(name, image)
    # Compat: the orientation that cameras note in EXIF is not applied: released models were trained
    # and evaluated on the pixels as stored. Neither is transparency: hidden colours show.
    try:
        image.load()  # only decoding to the end finds a truncated file
        return image if image.mode == "RGB" else image.convert("RGB")
    except _BROKEN as error:
        raise _damaged(name, error) from error


def _read(text: str, name: str) -> bytes:
    scheme = text.split(":", 1)[0].lower()
    if scheme in ("http", "https"):
        return _download(text, name)
    if scheme == "data":
        return _decode_data_url(text, name)
    try:
        return Path(text).read_bytes()
    except FileNotFoundError as error:
        raise MGMError(f"{name}: there is no such file; check the path") from error
    except IsADirectoryError as error:
        raise MGMError(f"{name}: is a folder; name an image file in it") from error
    except (OSError, ValueError) as error:
        raise MGMError(f"{name}: cannot be read ({one_line(error)}); check the path") from error


def _download(url: str, name: str) -> bytes:
    # Some servers turn away the default agent of urllib.
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "Mozilla/5.0 (mgm)"})
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            content = response.read(MAX_BYTES + 1)
    except urllib.error.HTTPError as error:
        error.close()
        raise MGMError(
            f"{name}: the server answered {error.code} {one_line(error.reason)}; check the URL"
        ) from error
    except (OSError, ValueError, EOFError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise MGMError(
            f"{name}: cannot be reached ({one_line(reason)}); check the URL and the network"
        ) from error
    if len(content) > MAX_BYTES:
        raise MGMError(f"{name}: is larger than {MAX_BYTES >> 20} MiB; save a smaller copy first")
    return content


def _decode_data_url(text: str, name: str) -> bytes:
    head, comma, body = text.partition(",")
    try:
        if not comma:
            raise ValueError("no comma")
        if head.endswith(";base64"):
            return base64.b64decode(urllib.parse.unquote(body), validate=True)
        return urllib.parse.unquote_to_bytes(body)
    except (binascii.Error, ValueError) as error:
        raise MGMError(f"{name}: is not a valid data URL ({one_line(error)})") from error


def _too_large(name: str, image: Image.Image | None = None) -> MGMError:
    size = f"is {image.width} x {image.height}, " if image is not None else "has "
    return MGMError(f"{name}: {size}more than {MAX_PIXELS:,} pixels; scale it down first")


def _damaged(name: str, error: Exception) -> MGMError:
    return MGMError(f"{name}: is truncated or damaged ({one_line(error)}); get a whole copy")

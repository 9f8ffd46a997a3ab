"""Opens images: paths, URLs, base64, bytes, open files, Pillow images, arrays and tensors."""

import http.client
import os
import stat
import string
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

import numpy as np
from PIL import Image

from mgm.data.images.arrays import Tensor, array_size, array_to_image, is_array
from mgm.data.images.data_url import MIN_BASE64, decode_base64, decode_data_url
from mgm.data.images.decoding import decode_image, read_image_header, to_rgb
from mgm.data.images.limits import LOCAL_LIMITS, ImageLimits
from mgm.data.images.orientation import UPRIGHT, check_orientation
from mgm.errors import MGMError, one_line

FileSource = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
ImageSource = FileSource | Image.Image | np.ndarray | Tensor

DOWNLOAD_READ_TIMEOUT = 20.0  # seconds without data from a server
MAX_DOWNLOAD_SECONDS = 120.0  # time limit of a download
MAX_DOWNLOAD_BYTES = 256 * 2**20  # size limit of a download
MAX_FILE_BYTES = 2**30  # enough for an uncompressed image of the maximum number of pixels
DOWNLOAD_CHUNK_BYTES = 2**16  # between checks of the time limit


def open_image(
    source: ImageSource,
    label: str = "image",
    orientation: str = UPRIGHT,
    limits: ImageLimits = LOCAL_LIMITS,
) -> Image.Image:
    """Open and decode an image to RGB.

    Args:
        source: a path, an http(s) or data URL, an image file in base64, as bytes or as an open
            binary file, a Pillow image of any mode, or a numpy array or torch tensor: (height,
            width), (height, width, channels) or (channels, height, width) with 1, 3 or 4 channels,
            uint8 or floats from 0 to 1.
        label: name of the image in errors, such as `image 2 of 7`.
        orientation: "upright" applies the EXIF orientation, as viewers do; "stored" does not.
            Pillow applies the orientation of TIFF files in both cases.
        limits: accepted formats and maximum sizes.

    Raises:
        MGMError: not an image, damaged, or larger than the limits.
    """
    check_orientation(orientation)
    if is_array(source):
        source = array_to_image(source, label, limits)
    if isinstance(source, Image.Image):
        return to_rgb(source, label, orientation, limits)
    content, name = image_file(source, label)
    return decode_image(content, name, orientation, limits)


def open_data_image(
    source: Path | str | bytes, label: str, orientation: str = UPRIGHT
) -> Image.Image:
    """Open an image of a data set: `open_image`, restricted to regular files.

    Raises:
        MGMError: the file does not exist, is a pipe or a device, or is not a valid image.
    """
    if isinstance(source, Path) and (fault := file_fault(source)):
        raise MGMError(f"{label}: {source!s:.200}: {fault}")
    return open_image(source, label, orientation)


def file_fault(path: str | os.PathLike[str]) -> str | None:
    """Why a path is not a regular file, as text after its name; None: it is one.

    Reading from a pipe or a device may block or never end.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116  accepts str too
    except FileNotFoundError:
        return "there is no such file"
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        return f"cannot be read ({_reason(error)})"
    if stat.S_ISREG(mode):
        return None
    return f"is a {'folder' if stat.S_ISDIR(mode) else 'pipe or a device'}; name an image file"


def image_size(
    source: ImageSource, label: str = "image", limits: ImageLimits = LOCAL_LIMITS
) -> tuple[int, int]:
    """Width and height in pixels, as stored, from the header of a file without decoding it.

    Args:
        source: as for `open_image`.
        label: name of the image in errors.
        limits: accepted formats and maximum sizes.

    Raises:
        MGMError: not an image, or larger than the limits.
    """
    if is_array(source):
        return array_size(source, label)
    if isinstance(source, Image.Image):
        return source.size
    return read_image_header(*image_file(source, label), limits).size


def is_file(source: object) -> TypeGuard[FileSource]:
    """Whether a source is an encoded image or the path or URL of one, and not decoded pixels."""
    kinds = (str, os.PathLike, bytes, bytearray, memoryview)
    return isinstance(source, kinds) or callable(getattr(source, "read", None))


def image_file(source: object, label: str) -> tuple[bytes, str]:
    """Read the bytes of an image file; also returns its name for errors.

    Args:
        source: a path, an http(s) or data URL, base64, bytes, or an open binary file, whose
            position is restored.
        label: name of the image.

    Raises:
        MGMError: another type of source, or it cannot be read.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        content = bytes(source)
        return content, f"{label}: {len(content)} bytes"
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        if isinstance(text, bytes):
            text = os.fsdecode(text)
        name = f"{label}: {text if len(text) <= 200 else text[:80] + '…'}"
        return _read(text, name), name
    if is_file(source):
        content = _read_open(source, label)
        return content, f"{label}: {len(content)} bytes"
    raise MGMError(
        f"{label}: is of type {type(source).__name__}; give a path, an http(s) or data URL, base64,"
        " the bytes of an image file, an open file, a Pillow image, a numpy array or a tensor"
    )


def image_list(images: Any) -> list[Any]:
    """Convert one image, or a list or tuple of images, to a list."""
    return list(images) if isinstance(images, list | tuple) else [images]


def _read(text: str, name: str) -> bytes:
    scheme = text.split(":", 1)[0].lower()
    if scheme in ("http", "https"):
        return download(text, name)
    if scheme.strip() == "data":
        return decode_data_url(text, name)
    if "://" in text:
        advice = "give only the path" if scheme == "file" else "save it and give its path"
        raise MGMError(f"{name}: is not an http(s) or data URL; {advice}")
    try:
        return _read_file(Path(text), name)
    except MGMError:
        raise
    except (OSError, ValueError) as error:
        content = _base64_image(text)
        if content is None:
            raise _unreadable(name, error) from error
        return content


def _unreadable(name: str, error: Exception) -> MGMError:
    if isinstance(error, FileNotFoundError):
        return MGMError(f"{name}: there is no such file; check the path")
    if isinstance(error, IsADirectoryError):
        return MGMError(f"{name}: is a folder; name an image file in it")
    return MGMError(f"{name}: cannot be read ({_reason(error)}); check the path")


def _base64_image(text: str) -> bytes | None:
    """Decode an image file in base64; None: the text is not base64 and may be a path."""
    if len(text) < MIN_BASE64:
        return None
    try:
        content = decode_base64(text, "", MAX_FILE_BYTES)
        read_image_header(content, "")
    except MGMError:
        return None
    return content


def _read_open(file: Any, label: str) -> bytes:
    """The remaining bytes of an open file, whose position is restored."""
    try:
        position = file.tell() if file.seekable() else None
        content = file.read(MAX_FILE_BYTES + 1)
        if position is not None:
            file.seek(position)
    except (AttributeError, OSError, TypeError, ValueError) as error:
        raise MGMError(
            f"{label}: the file cannot be read ({_reason(error)}); open the file again"
        ) from error
    if not isinstance(content, bytes):
        raise MGMError(f"{label}: the file was opened as text; open it with mode 'rb'")
    if len(content) > MAX_FILE_BYTES:
        raise MGMError(f"{label}: is larger than {MAX_FILE_BYTES >> 30} GiB; give an image file")
    return content


def _read_file(path: Path, name: str) -> bytes:
    status = path.stat()
    if stat.S_ISREG(status.st_mode):
        if status.st_size <= MAX_FILE_BYTES:
            return path.read_bytes()
    else:  # a pipe or a device, which may never end
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) <= MAX_FILE_BYTES:
            return content
    raise MGMError(f"{name}: is larger than {MAX_FILE_BYTES >> 30} GiB; give an image file")


def download(url: str, name: str, open_url: Callable[..., Any] = urllib.request.urlopen) -> bytes:
    """Download an http(s) URL.

    Args:
        url: address of the file.
        name: name of the image in errors.
        open_url: `urllib.request.urlopen` or a compatible function.

    Raises:
        MGMError: unreachable, too large or too slow.
    """
    try:
        # Some servers reject urllib's default user agent.
        request = urllib.request.Request(_ascii(url), headers={"User-Agent": "Mozilla/5.0 (mgm)"})
        with open_url(request, timeout=DOWNLOAD_READ_TIMEOUT) as response:
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
    while chunk := response.read1(DOWNLOAD_CHUNK_BYTES):
        content += chunk
        if len(content) > MAX_DOWNLOAD_BYTES:
            limit = f"{MAX_DOWNLOAD_BYTES >> 20} MiB"
            raise MGMError(f"{name}: is larger than {limit}; save a smaller copy first")
        if time.monotonic() - started > MAX_DOWNLOAD_SECONDS:
            raise MGMError(
                f"{name}: timed out after {MAX_DOWNLOAD_SECONDS:.0f} s and {len(content):,} bytes; "
                "download it and give the file"
            )
    if response.length:  # fewer bytes than Content-Length
        raise http.client.IncompleteRead(bytes(content), response.length)
    return bytes(content)


def _ascii(url: str) -> str:
    """`url` in ASCII: an IDNA host, and percent-encoding of spaces and other characters."""
    parts = urllib.parse.urlsplit(url)
    parts = parts._replace(netloc=parts.netloc.encode("idna").decode("ascii"))
    return urllib.parse.quote(parts.geturl(), safe=string.punctuation)


def _reason(error: object) -> str:
    """The reason of an OSError without the name, which the message has already."""
    return one_line(getattr(error, "strerror", None) or error)[:200]

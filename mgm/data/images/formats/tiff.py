"""TIFF tags: tile size, grey levels, and the kinds of TIFF that Pillow cannot decode."""

import io
import warnings
from typing import Any

from PIL import Image
from PIL.TiffImagePlugin import COMPRESSION_INFO, ImageFileDirectory_v2, TiffImageFile

from mgm.errors import one_line

TIFF_HEADERS = (b"II*\0", b"MM\0*")
_HEADER_BYTES = 8
_BITS_PER_SAMPLE, _COMPRESSION, _PHOTOMETRIC = 258, 259, 262
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_WHITE_IS_ZERO = 0


def tile_pixels(image: Image.Image) -> int:
    """Pixels of a tile, which may be larger than the image; 0: not tiled."""
    tags = _tags(image)
    return int(tags.get(_TILE_WIDTH, 0)) * int(tags.get(_TILE_LENGTH, 0))


def grey_levels(image: Image.Image) -> tuple[int, bool]:
    """The value range of a grey TIFF of more than 8 bits, as decoded by Pillow.

    Returns:
        Bits per value, and whether 0 is white: Pillow inverts images of up to 8 bits only.
    """
    tags = _tags(image)
    return max(tags.get(_BITS_PER_SAMPLE, (16,))), tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def unsupported_kind(content: bytes) -> str | None:
    """The feature of a TIFF that Pillow does not support; None: the file is damaged."""
    try:
        with warnings.catch_warnings(action="error"):  # Pillow warns about a truncated directory
            directory = ImageFileDirectory_v2(content[:_HEADER_BYTES])
            stream = io.BytesIO(content)
            stream.seek(directory.next)
            directory.load(stream)
        compression = directory.get(_COMPRESSION, 1)
        if compression not in COMPRESSION_INFO:
            return f"compression {compression}"
        with warnings.catch_warnings(action="ignore"):
            TiffImageFile(io.BytesIO(content))
    except SyntaxError as error:
        if str(error).startswith("unknown"):  # pixel mode, or organisation of the data
            return one_line(error)
    except Exception:  # noqa: BLE001  a damaged directory can raise any exception
        return None
    return None


def _tags(image: Image.Image) -> Any:
    return getattr(image, "tag_v2", {})

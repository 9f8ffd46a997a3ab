"""Decodes JPEG files with simplejpeg, if installed: faster than Pillow, bit-identical."""

from importlib.util import find_spec

import numpy as np
from PIL import Image

_START = b"\xff\xd8\xff"
_COLOURS = ("YCbCr", "Gray", "RGB")  # CMYK is left to Pillow


def decode_jpeg(content: bytes, max_pixels: int, max_side: int) -> Image.Image | None:
    """Decode a JPEG to the same RGB image as Pillow.

    Args:
        content: bytes of the file.
        max_pixels: larger images are not decoded.
        max_side: images with a longer side, in pixels, are not decoded.

    Returns:
        None: to be decoded by Pillow, since simplejpeg is not installed, or the file is not a
        JPEG, an unusual or a damaged one.
    """
    if not content.startswith(_START) or find_spec("simplejpeg") is None:
        return None
    import simplejpeg

    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        short, long = sorted((int(height), int(width)))
        if colours not in _COLOURS or not 0 < short * long <= max_pixels or long > max_side:
            return None
        pixels: np.ndarray = simplejpeg.decode_jpeg(content, "RGB", strict=True)
    except Exception:  # noqa: BLE001  KeyError of 4:4:1, for one; Pillow tells users what is wrong
        return None
    return Image.fromarray(pixels)

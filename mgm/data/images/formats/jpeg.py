"""JPEG files decoded by simplejpeg where it is installed: faster than Pillow, the same bits."""

from importlib.util import find_spec

import numpy as np
from PIL import Image

_START = b"\xff\xd8\xff"
_COLOURS = ("YCbCr", "Gray", "RGB")  # of those with four channels Pillow makes RGB its own way


def decode_jpeg(content: bytes, max_pixels: int, max_side: int) -> Image.Image | None:
    """An RGB image, as Pillow decodes it.

    Args:
        content: of a file.
        max_pixels: images of more are left alone.
        max_side: images with a longer one, in pixels, too.

    Returns:
        None: simplejpeg is not installed, or the file is no JPEG, an unusual or a damaged one;
        Pillow opens it, or says what is wrong with it.
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

"""Endings of the names of image files."""

from PIL import Image

from mgm.data.images.limits import EXTERNAL_FORMATS

# Formats that Pillow knows by name alone: others have to decode them.
_STUBS = ("BUFR", "GRIB", "HDF5", "MPEG", "WMF")
# Images that Pillow alone, or an older one, cannot open; whoever opens one says so.
_OTHERS = ("avif", "eps", "heic", "heif", "hif", "img", "jxl", "ps", "svg")


def _openable() -> set[str]:
    Image.init()
    return {
        ending.removeprefix(".").lower()
        for ending, name in Image.EXTENSION.items()
        if name in Image.OPEN and name not in (*_STUBS, *EXTERNAL_FORMATS)
    }


# In lower case and without a dot: what `open_image` opens, and what it refuses with the reason.
IMAGE_EXTENSIONS: tuple[str, ...] = tuple(sorted(_openable() | set(_OTHERS)))

"""File name extensions of image formats."""

from PIL import Image

from mgm.data.images.limits import EXTERNAL_FORMATS

# Formats that Pillow lists without a decoder.
_STUBS = ("BUFR", "GRIB", "HDF5", "MPEG", "WMF")
# Image formats that Pillow cannot open without a plugin or in older versions.
_OTHERS = ("avif", "eps", "heic", "heif", "hif", "img", "jxl", "ps", "svg")


def _openable() -> set[str]:
    Image.init()
    return {
        ending.removeprefix(".").lower()
        for ending, name in Image.EXTENSION.items()
        if name in Image.OPEN and name not in (*_STUBS, *EXTERNAL_FORMATS)
    }


# In lower case, without the dot: extensions that `open_image` opens or refuses with a reason.
IMAGE_EXTENSIONS: tuple[str, ...] = tuple(sorted(_openable() | set(_OTHERS)))

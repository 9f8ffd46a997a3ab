"""Decodes image files to RGB, within limits of pixels and memory."""

import io
import re
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from mgm.data.images.formats.avif import max_frame_pixels
from mgm.data.images.formats.jpeg import decode_jpeg
from mgm.data.images.formats.tiff import TIFF_HEADERS, grey_levels, tile_pixels, unsupported_kind
from mgm.data.images.limits import (
    EXTERNAL_FORMATS,
    LOCAL_LIMITS,
    NETWORK_FORMATS,
    ImageLimits,
)
from mgm.data.images.orientation import UPRIGHT, exif_transposition, oriented
from mgm.errors import MGMError, one_line

# Memory per pixel while decoding, measured, with the RGB image in Pillow's 4 bytes per pixel.
BYTES_PER_PIXEL = {"WEBP": 16, "AVIF": 12, "JPEG": 8, "MPO": 8}
PROGRESSIVE_BYTES = 6  # per pixel: coefficients of a progressive JPEG
OTHER_BYTES = 8
MAX_SCANS = 200  # maximum of a progressive JPEG; each takes a pass; encoders write about 10

_POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")
_START_OF_SCAN = b"\xff\xda"


@dataclass(frozen=True)
class EncodedImage:
    """An image file with a parsed header that is within the limits; pixels are not decoded yet.

    Attributes:
        content: bytes of the file.
        image: Pillow's image, not loaded.
        name: name of the image in errors.
        pixels: number of pixels that decoding allocates.
        limits: limits that the header was checked against.
    """

    content: bytes
    image: Image.Image
    name: str
    pixels: int
    limits: ImageLimits

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as stored."""
        return self.image.size

    @property
    def decoding_bytes(self) -> int:
        """Peak memory of `decode` in bytes."""
        per_pixel = BYTES_PER_PIXEL.get(self.image.format or "", OTHER_BYTES)
        progressive = PROGRESSIVE_BYTES if self.image.info.get("progressive") else 0
        return self.pixels * (per_pixel + progressive)

    def decode(self, orientation: str = UPRIGHT) -> Image.Image:
        """Decode the whole image to RGB.

        Args:
            orientation: "upright" or "stored", see `open_image`.

        Raises:
            MGMError: the image is damaged, or does not fit into memory.
        """
        if self.image.format in ("JPEG", "MPO"):
            fast = decode_jpeg(self.content, self.limits.max_pixels, self.limits.max_side)
            if fast is not None and fast.size == self.size:
                with _faults(self.name, self.size):
                    return oriented(fast, exif_transposition(self.image), orientation)
        return to_rgb(self.image, self.name, orientation, self.limits)


def decode_image(
    content: bytes, name: str, orientation: str = UPRIGHT, limits: ImageLimits = LOCAL_LIMITS
) -> Image.Image:
    """Decode the bytes of an image file to RGB.

    Args:
        content: bytes of the file.
        name: name of the image in errors.
        orientation: "upright" or "stored", see `open_image`.
        limits: accepted formats and maximum sizes.

    Raises:
        MGMError: not an image, damaged, or larger than the limits.
    """
    return read_image_header(content, name, limits).decode(orientation)


def read_image_header(
    content: bytes, name: str, limits: ImageLimits = LOCAL_LIMITS
) -> EncodedImage:
    """Parse the header of an image file and check format and size, without decoding pixels.

    Args:
        content: bytes of the file.
        name: name of the image in errors.
        limits: accepted formats and maximum sizes.

    Raises:
        MGMError: not an image of an accepted format, or larger than the limits.
    """
    if not content:
        raise MGMError(f"{name}: is empty; give an image file")
    try:
        with _faults(name, limits=limits):
            image = _opened(content, limits.formats)
            check_size(image.size, name, limits)
            pixels = max(image.width * image.height, _inner_pixels(image, content, name))
    except UnidentifiedImageError as error:
        raise _unidentified(content, name, limits) from error
    if pixels > limits.max_pixels:
        raise _too_large(name, f"decodes to {pixels:,} pixels", limits)
    return EncodedImage(content, image, name, pixels, limits)


def has_exif_transposition(content: bytes, name: str) -> bool:
    """Whether the EXIF orientation of an image file rotates or mirrors the image.

    Raises:
        MGMError: not an image.
    """
    return exif_transposition(read_image_header(content, name).image) is not None


def to_rgb(
    image: Image.Image,
    name: str,
    orientation: str = UPRIGHT,
    limits: ImageLimits = LOCAL_LIMITS,
) -> Image.Image:
    """Convert a Pillow image of any mode to RGB, and decode it if necessary.

    Args:
        image: is loaded, but not changed otherwise.
        name: name of the image in errors.
        orientation: "upright" or "stored", see `open_image`.
        limits: maximum size.

    Raises:
        MGMError: the image is damaged, larger than the limits, or its values are not colours.
    """
    if image.format in EXTERNAL_FORMATS and getattr(image, "tile", None):
        raise _external(name)
    check_size(image.size, name, limits)
    with _faults(name, image.size, limits):
        image.load()  # a truncated file is detected only by complete decoding
        check_size(image.size, name, limits)  # the size of icons is known only after decoding
        # Compat: alpha is dropped; transparent pixels keep their stored colour, as in training.
        return oriented(_convert(image, name), exif_transposition(image), orientation)


def _opened(content: bytes, formats: Sequence[str] | None) -> Image.Image:
    Image.init()
    first = NETWORK_FORMATS if formats is None else formats
    try:
        return Image.open(io.BytesIO(content), formats=[one for one in first if one in Image.OPEN])
    except UnidentifiedImageError:
        if formats is not None:
            raise
    refused = (*NETWORK_FORMATS, *EXTERNAL_FORMATS)
    others = [one for one in Image.ID if one not in refused]
    return Image.open(io.BytesIO(content), formats=others)


def _inner_pixels(image: Image.Image, content: bytes, name: str) -> int:
    """Pixels of the largest decoded frame or tile, which may be larger than the image; else 0."""
    if image.format == "AVIF":
        pixels = max_frame_pixels(content)
        if pixels is None:
            raise MGMError(
                f"{name}: is an AVIF without a sequence header; download or copy it again"
            )
        return pixels
    if image.format == "TIFF":
        return tile_pixels(image)
    if image.info.get("progressive") and (scans := content.count(_START_OF_SCAN)) > MAX_SCANS:
        raise MGMError(
            f"{name}: is a JPEG of {scans:,} scans, more than {MAX_SCANS}; save it again"
        )
    return 0


def check_size(size: tuple[int, int], name: str, limits: ImageLimits) -> None:
    """Check that an image of (width, height) pixels is not empty and within the limits.

    Raises:
        MGMError: the message starts with `name`.
    """
    width, height = size
    if width < 1 or height < 1:
        raise MGMError(f"{name}: is {width} x {height}, has no pixels; give another")
    if width * height > limits.max_pixels:
        raise _too_large(name, f"is {width} x {height}", limits)
    if max(size) > limits.max_side:
        raise MGMError(
            f"{name}: is {width} x {height}, longer than {limits.max_side:,} pixels; crop it"
        )


def _convert(image: Image.Image, name: str) -> Image.Image:
    """Convert an image to mode RGB."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):  # Pillow would clip values above 255
        bits, inverted = grey_levels(image) if image.format == "TIFF" else (16, False)
        levels = np.asarray(image) >> (bits - 8)
        levels = 255 - levels if inverted else levels
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    if image.mode == "I" and image.format in ("PPM", "PNG"):  # both modes have values of 16 bits
        levels = np.asarray(image).clip(0, 65535) >> 8
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise MGMError(
            f"{name}: has signed, floating-point or 32-bit pixels (Pillow's mode {image.mode}), "
            "whose range of values is unknown; save it with 8 bits"
        )
    if image.format == "PNG" and image.mode == "P":
        palette = b"" if image.palette is None else image.palette.getdata()[1]
        if len(palette) < len("RGB"):  # Pillow would convert these values to black
            raise damaged(name, "it has no palette")
    if image.mode == "LAB":
        from PIL import ImageCms

        spaces = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, *spaces, outputMode="RGB")
        return image if converted is None else converted
    if image.mode in ("La", "RGBa"):  # premultiplied alpha
        image = image.convert(image.mode.upper())
    return image.convert("RGB")


@contextmanager
def _faults(
    name: str, size: tuple[int, int] | None = None, limits: ImageLimits = LOCAL_LIMITS
) -> Generator[None]:
    """Convert exceptions of Pillow and its plugins to MGMErrors, except for unknown formats."""
    try:
        # Pillow's warnings are suppressed: an image is either valid or an error.
        with warnings.catch_warnings(action="ignore"):
            yield
    except (MGMError, UnidentifiedImageError):
        raise
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        what = f"has {int(pixels[0]):,} pixels" if pixels else "is huge"
        raise _too_large(name, what, limits) from error
    except MemoryError as error:
        what = "needs" if size is None else f"is {size[0]} x {size[1]},"
        raise MGMError(f"{name}: {what} more than fits into memory; scale it down first") from error
    except Exception as error:  # each plugin raises exceptions of its own
        raise damaged(name, error) from error


def _unidentified(content: bytes, name: str, limits: ImageLimits) -> MGMError:
    if content.startswith(TIFF_HEADERS):
        kind = unsupported_kind(content)
        if kind is None:  # Pillow reads the directory to the end of the file
            return damaged(name, "its directory cannot be read")
        return MGMError(
            f"{name}: is a kind of TIFF that Pillow cannot decode ({kind}); save it with 8 bits "
            "for each channel"
        )
    if content.startswith(_POSTSCRIPT):
        return _external(name)
    if limits.formats is None:
        return MGMError(
            f"{name}: is not an image that Pillow knows; give a PNG, JPEG, WebP, GIF, BMP or TIFF"
        )
    return MGMError(f"{name}: is not an image of these formats: {', '.join(limits.formats)}")


def _external(name: str) -> MGMError:
    return MGMError(f"{name}: PostScript is not supported; save it as PNG")


def _too_large(name: str, what: str, limits: ImageLimits) -> MGMError:
    return MGMError(f"{name}: {what}, more than {limits.max_pixels:,} pixels; scale it down first")


def damaged(name: str, error: object) -> MGMError:
    """The MGMError for an image whose decoder raised `error`."""
    reason = one_line(getattr(error, "strerror", None) or error)[:200] or type(error).__name__
    return MGMError(f"{name}: is truncated or damaged ({reason}); download or copy it again")

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
from mgm.data.images.orientation import UPRIGHT, oriented, turn_of
from mgm.errors import MGMError, one_line

# What decoding takes for each pixel, the RGB image in Pillow's four bytes included; measured.
BYTES_PER_PIXEL = {"WEBP": 16, "AVIF": 12, "JPEG": 8, "MPO": 8}
PROGRESSIVE_BYTES = 6  # for each pixel: coefficients of a progressive JPEG
OTHER_BYTES = 8
MAX_SCANS = 200  # of a progressive JPEG; each goes through all pixels, encoders write some ten

_POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")
_START_OF_SCAN = b"\xff\xda"


@dataclass(frozen=True)
class EncodedImage:
    """An image file whose header was read and is within the limits; no pixel is decoded yet.

    Attributes:
        content: of the file.
        image: as Pillow opened it.
        name: of the image in errors.
        pixels: that decoding allocates.
        limits: that it was checked against.
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
        """Memory that `decode` takes at its peak."""
        per_pixel = BYTES_PER_PIXEL.get(self.image.format or "", OTHER_BYTES)
        progressive = PROGRESSIVE_BYTES if self.image.info.get("progressive") else 0
        return self.pixels * (per_pixel + progressive)

    def decode(self, orientation: str = UPRIGHT) -> Image.Image:
        """The RGB image, decoded completely.

        Args:
            orientation: "upright" or "stored", see `open_image`.

        Raises:
            MGMError: it is damaged, or does not fit into memory.
        """
        if self.image.format in ("JPEG", "MPO"):
            fast = decode_jpeg(self.content, self.limits.max_pixels, self.limits.max_side)
            if fast is not None and fast.size == self.size:
                with _faults(self.name, self.size):
                    return oriented(fast, turn_of(self.image), orientation)
        return to_rgb(self.image, self.name, orientation, self.limits)


def decode_image(
    content: bytes, name: str, orientation: str = UPRIGHT, limits: ImageLimits = LOCAL_LIMITS
) -> Image.Image:
    """An RGB image from the bytes of its file, decoded completely.

    Args:
        content: the file's.
        name: of the image in errors.
        orientation: "upright" or "stored", see `open_image`.
        limits: of formats and sizes.

    Raises:
        MGMError: there is no image there, or it is damaged or larger than the limits.
    """
    return read_image_header(content, name, limits).decode(orientation)


def read_image_header(
    content: bytes, name: str, limits: ImageLimits = LOCAL_LIMITS
) -> EncodedImage:
    """Read the header of an image file: format, size and limits, without decoding pixels.

    Args:
        content: the file's.
        name: of the image in errors.
        limits: of formats and sizes.

    Raises:
        MGMError: it is no image of these formats, or larger than the limits.
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


def notes_turn(content: bytes, name: str) -> bool:
    """Whether a file says that its image has to be turned.

    Raises:
        MGMError: it is no image.
    """
    return turn_of(read_image_header(content, name).image) is not None


def to_rgb(
    image: Image.Image,
    name: str,
    orientation: str = UPRIGHT,
    limits: ImageLimits = LOCAL_LIMITS,
) -> Image.Image:
    """An RGB image from a Pillow image of any mode, decoded completely.

    Args:
        image: may still have to be decoded; it is not changed otherwise.
        name: of the image in errors.
        orientation: "upright" or "stored", see `open_image`.
        limits: of its size.

    Raises:
        MGMError: it is damaged, larger than the limits, or of numbers that are no colours.
    """
    if image.format in EXTERNAL_FORMATS and getattr(image, "tile", None):
        raise _external(name)
    check_size(image.size, name, limits)
    with _faults(name, image.size, limits):
        image.load()  # only decoding to the end finds a truncated file
        check_size(image.size, name, limits)  # icons tell it while they are decoded
        # Compat: transparency is not applied: hidden colours show, as released models saw them.
        return oriented(_convert(image, name), turn_of(image), orientation)


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
    """Pixels of the largest frame or tile that is decoded; the header says what is left of it."""
    if image.format == "AVIF":
        pixels = max_frame_pixels(content)
        if pixels is None:
            raise MGMError(f"{name}: is an AVIF without a sequence header; get a whole copy")
        return pixels
    if image.format == "TIFF":
        return tile_pixels(image)
    if image.info.get("progressive") and (scans := content.count(_START_OF_SCAN)) > MAX_SCANS:
        raise MGMError(f"{name}: is a JPEG of {scans:,} scans, more than {MAX_SCANS}; save it anew")
    return 0


def check_size(size: tuple[int, int], name: str, limits: ImageLimits) -> None:
    """Refuse an image of (width, height) pixels that is empty or larger than the limits.

    Raises:
        MGMError: begins with `name`.
    """
    width, height = size
    if width < 1 or height < 1:
        raise MGMError(f"{name}: is {width} x {height}, without a pixel; give another")
    if width * height > limits.max_pixels:
        raise _too_large(name, f"is {width} x {height}", limits)
    if max(size) > limits.max_side:
        raise MGMError(
            f"{name}: is {width} x {height}, longer than {limits.max_side:,} pixels; cut it up"
        )


def _convert(image: Image.Image, name: str) -> Image.Image:
    """The same pixels as RGB."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):  # Pillow would make white of all that is above 255
        bits, inverted = grey_levels(image) if image.format == "TIFF" else (16, False)
        levels = np.asarray(image) >> (bits - 8)
        levels = 255 - levels if inverted else levels
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    if image.mode == "I" and image.format in ("PPM", "PNG"):  # both have 16 bits, and scale to them
        levels = np.asarray(image).clip(0, 65535) >> 8
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise MGMError(
            f"{name}: holds signed numbers, fractions or numbers of 32 bits (Pillow's mode "
            f"{image.mode}), which do not say what is black and what is white; save it with 8 bits"
        )
    if image.format == "PNG" and image.mode == "P":
        palette = b"" if image.palette is None else image.palette.getdata()[1]
        if len(palette) < len("RGB"):  # Pillow would make all of it black
            raise damaged(name, "it has no palette")
    if image.mode == "LAB":
        from PIL import ImageCms

        spaces = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, *spaces, outputMode="RGB")
        return image if converted is None else converted
    if image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert(image.mode.upper())
    return image.convert("RGB")


@contextmanager
def _faults(
    name: str, size: tuple[int, int] | None = None, limits: ImageLimits = LOCAL_LIMITS
) -> Generator[None]:
    """Whatever Pillow and its plugins raise inside as an MGMError, but for unknown formats."""
    try:
        # Pillow warns of what it doubts; here an image is either fine or an error.
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
    except Exception as error:  # each plugin has exceptions of its own
        raise damaged(name, error) from error


def _unidentified(content: bytes, name: str, limits: ImageLimits) -> MGMError:
    if content.startswith(TIFF_HEADERS):
        kind = unsupported_kind(content)
        if kind is None:  # Pillow follows its directory to the end of the file
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
    return MGMError(f"{name}: is PostScript, which other programs draw; save it as PNG")


def _too_large(name: str, what: str, limits: ImageLimits) -> MGMError:
    return MGMError(f"{name}: {what}, more than {limits.max_pixels:,} pixels; scale it down first")


def damaged(name: str, error: object) -> MGMError:
    """The error of an image whose decoder raised `error`."""
    reason = one_line(getattr(error, "strerror", None) or error)[:200] or type(error).__name__
    return MGMError(f"{name}: is truncated or damaged ({reason}); get a whole copy")

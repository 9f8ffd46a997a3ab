"""EXIF orientation of images: applied ("upright") or ignored ("stored")."""

from PIL import ExifTags, Image

from mgm.errors import MGMError

UPRIGHT, STORED = "upright", "stored"
ORIENTATIONS = (UPRIGHT, STORED)

_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Where Pillow finds an orientation.
_METADATA = ("exif", "xmp", "Raw profile type exif", "XML:com.adobe.xmp")


def check_orientation(orientation: object, field: str = "orientation") -> None:
    """Raise an MGMError unless the orientation is "upright" or "stored"."""
    if orientation not in ORIENTATIONS:
        raise MGMError(f"{field} is {orientation!r:.80}; choose one of {', '.join(ORIENTATIONS)}")


def exif_transposition(image: Image.Image) -> Image.Transpose | None:
    """The transposition that makes an image upright, from EXIF or XMP data; None: not needed."""
    try:
        return _TRANSPOSES.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001  ignore damaged metadata
        return None


def oriented(
    image: Image.Image, transposition: Image.Transpose | None, orientation: str
) -> Image.Image:
    """Apply an orientation, and remove the EXIF entry so that it is not applied twice."""
    if transposition is None:
        return image
    image = image.transpose(transposition) if orientation == UPRIGHT else image.copy()
    for key in _METADATA:
        image.info.pop(key, None)
    return image

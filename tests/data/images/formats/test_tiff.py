"""TIFF variants that Pillow cannot write, composed tag by tag."""

import struct
import warnings

import numpy as np
import pytest

from mgm.data.images.loading import open_image
from mgm.errors import MGMError

SHORT, LONG = 3, 4
SIGNED, FLOAT = 2, 3


def tiff(
    pixels: bytes,
    bits: int = 8,
    photometric: int = 1,
    sample_format: int = 1,
    order: str = "<",
    compression: int = 1,
    width: int = 3,
) -> bytes:
    """A grey image of one row."""
    tags = {
        256: (LONG, width),
        257: (LONG, 1),
        258: (SHORT, bits),
        259: (SHORT, compression),
        262: (SHORT, photometric),
        273: (LONG, 8 + 2 + 12 * 10 + 4),  # offset of the pixels
        277: (SHORT, 1),
        278: (LONG, 1),
        279: (LONG, len(pixels)),
        339: (SHORT, sample_format),
    }
    directory = struct.pack(f"{order}H", len(tags))
    for tag, (kind, value) in tags.items():
        packed = struct.pack(order + ("H" if kind == SHORT else "I"), value)
        directory += struct.pack(f"{order}HHI", tag, kind, 1) + packed.ljust(4, b"\0")
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    return header + directory + bytes(4) + pixels


def levels(content: bytes) -> list[int]:
    return np.asarray(open_image(content))[0, :, 0].tolist()


@pytest.mark.parametrize(
    ("bits", "pixels"),
    [
        (1, b"\x40"),
        (8, bytes([0, 255, 128])),
        (16, np.array([0, 65535, 32768], "<u2").tobytes()),
    ],
)
def test_white_is_zero(bits, pixels):
    seen = levels(tiff(pixels, bits))
    assert seen[:2] == [0, 255]
    assert levels(tiff(pixels, bits, photometric=0)) == [255 - level for level in seen]


def test_12_bits():
    assert levels(tiff(b"\xff\xf8\x00\x00\x00", 12)) == [255, 128, 0]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        *(({"bits": bits}, "unknown pixel mode") for bits in (6, 9, 10, 11, 13, 14, 15, 24, 64)),
        ({"bits": 16, "sample_format": FLOAT}, "unknown pixel mode"),
        ({"bits": 16, "sample_format": SIGNED, "photometric": 0}, "unknown pixel mode"),
        ({"photometric": 32803}, "unknown pixel mode"),
        ({"compression": 34712}, "compression 34712"),
    ],
)
def test_unsupported_variants_are_not_reported_as_damaged(order, settings, reason):
    with pytest.raises(MGMError, match=rf"a kind of TIFF that Pillow cannot .* \({reason}\); save"):
        open_image(tiff(bytes(40), order=order, **settings))


def test_signed_samples():
    content = tiff(np.array([-9, 0, 9], "<i2").tobytes(), 16, sample_format=SIGNED)
    with pytest.raises(MGMError, match=r"signed, .* whose range of values is unknown"):
        open_image(content)


def test_damaged_files():
    content = tiff(bytes(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for length in range(4, len(content), 5):
            with pytest.raises(MGMError, match="is truncated or damaged"):
                open_image(content[:length])

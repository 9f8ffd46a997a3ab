import io
import sys

import numpy as np
import pytest
from PIL import Image

from mgm.data.images import decoding
from mgm.data.images.formats.jpeg import decode_jpeg
from mgm.data.images.loading import open_image
from mgm.errors import MGMError

pytest.importorskip("simplejpeg")
LIMITS = 10**6, 2000


def picture(size=(61, 47), mode="RGB"):
    """Noise over a gradient."""
    width, height = size
    noise = np.random.default_rng(7).integers(0, 120, (height, width, 3))
    slope = np.linspace(0, 135, width)[None, :, None]
    return Image.fromarray((noise + slope).astype(np.uint8)).convert(mode)


def encoded(image, **options):
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def as_pillow(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"optimize": True, "dpi": (72, 72)}]
)
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:1:1"])
@pytest.mark.parametrize("quality", [15, 75, 98])
def test_bits_equal_pillow(options, subsampling, quality):
    for size in ((61, 47), (8, 8), (1, 1), (17, 3)):
        content = encoded(picture(size), quality=quality, subsampling=subsampling, **options)
        decoded = decode_jpeg(content, *LIMITS)
        assert decoded is not None
        assert decoded.mode == "RGB"
        assert np.array_equal(decoded, as_pillow(content))


def test_grey_and_rotated_images():
    grey = encoded(picture(mode="L"))
    assert np.array_equal(decode_jpeg(grey, *LIMITS), as_pillow(grey))
    exif = Image.Exif()
    exif[0x0112] = 6  # EXIF orientation is set and not applied
    turned = encoded(picture(), exif=exif)
    assert np.array_equal(decode_jpeg(turned, *LIMITS), as_pillow(turned))
    unconverted = encoded(picture(), keep_rgb=True)
    assert np.array_equal(decode_jpeg(unconverted, *LIMITS), as_pillow(unconverted))


def test_fallback_to_pillow():
    whole = encoded(picture())
    for content in (
        encoded(picture(mode="CMYK")),
        whole[: len(whole) // 2],
        whole[:4],
        b"\xff\xd8\xff" + bytes(100),
        b"GIF89a",
        b"",
    ):
        assert decode_jpeg(content, *LIMITS) is None
    assert decode_jpeg(whole, 61 * 47 - 1, 2000) is None
    assert decode_jpeg(whole, 10**6, 60) is None
    with pytest.raises(MGMError, match="truncated or damaged"):
        open_image(whole[: len(whole) // 2])


def test_errors_fall_back_to_pillow(monkeypatch):
    def fault(*_, **__):
        raise KeyError(6)  # like a 4:4:1 image, which Pillow decodes

    import simplejpeg

    content = encoded(picture())
    expected = np.asarray(open_image(content))
    monkeypatch.setattr(simplejpeg, "decode_jpeg_header", fault)
    assert decode_jpeg(content, *LIMITS) is None
    assert np.array_equal(open_image(content), expected)


def test_chroma_subsampling_4_4_1():
    # As many blocks as 4:2:0, in units of 8 x 32 pixels instead of 16 x 16.
    content = bytearray(encoded(picture((32, 32)), subsampling="4:2:0"))
    sampling = content.index(b"\xff\xc0") + 11
    assert content[sampling] == 0x22
    content[sampling] = 0x14
    assert np.array_equal(open_image(bytes(content)), as_pillow(bytes(content)))


def test_pillow_without_simplejpeg(monkeypatch):
    content = encoded(picture())
    fast = open_image(content)
    monkeypatch.setattr(decoding, "decode_jpeg", lambda *_: None)
    assert np.array_equal(open_image(content), fast)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    assert decode_jpeg(content, *LIMITS) is None
    assert np.array_equal(open_image(content), fast)

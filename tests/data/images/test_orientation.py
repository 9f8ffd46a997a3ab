import io

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from mgm.data.image_processing_mgm import MGMImageProcessor
from mgm.data.images.loading import open_image
from mgm.data.images.orientation import STORED, UPRIGHT
from mgm.errors import MGMError
from tests.data.images.written_formats import skip_unless_written

PIXELS = np.zeros((16, 32, 3), np.uint8)
PIXELS[:8, :16] = 250  # the upper left quarter as stored
ORIENTATION = 0x0112


def file_of(orientation, kind="JPEG", **options):
    image = Image.fromarray(PIXELS)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    file = io.BytesIO()
    image.save(file, kind, exif=exif, **options)
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "MPO"])
def test_orientation_equals_pillow(orientation, kind):
    skip_unless_written(kind)
    content = file_of(orientation, kind)
    stored = Image.open(io.BytesIO(content)).convert("RGB")
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    assert stored.size == (32, 16)
    for source in (content, Image.open(io.BytesIO(content)), stored):
        assert np.array_equal(open_image(source), turned)
        assert np.array_equal(open_image(source, orientation=UPRIGHT), turned)
        assert np.array_equal(open_image(source, orientation=STORED), stored)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_is_rotated_once(orientation):
    content = file_of(orientation, "TIFF")
    turned = Image.open(io.BytesIO(content)).convert("RGB")  # Pillow rotates these while decoding
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(file_of(orientation, "PNG"))))
    assert np.array_equal(turned, expected)
    for mode in (UPRIGHT, STORED):
        for source in (content, Image.open(io.BytesIO(content)), turned):
            assert np.array_equal(open_image(source, orientation=mode), expected)


@pytest.mark.parametrize("mode", [UPRIGHT, STORED])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_opened_images_are_not_rotated_again(mode, kind):
    once = open_image(file_of(6, kind), orientation=mode)
    for again in (UPRIGHT, STORED):
        assert np.array_equal(open_image(once, orientation=again), once)


def test_pillow_images_are_not_modified():
    image = Image.open(io.BytesIO(file_of(6)))
    image.load()
    assert open_image(image).size == (16, 32)
    assert image.size == (32, 16)
    assert image.getexif()[ORIENTATION] == 6
    plain = Image.fromarray(PIXELS)
    assert open_image(plain) is plain


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_invalid_orientations_are_ignored(orientation):
    assert open_image(file_of(orientation)).size == (32, 16)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*" * 9]
)
def test_damaged_exif_data_is_ignored(exif):
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG", exif=exif)
    assert open_image(file.getvalue()).size == (32, 16)


def test_png_text_is_not_an_orientation():
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", "no exif\n")
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG", pnginfo=info)
    assert open_image(file.getvalue()).size == (32, 16)


def test_invalid_mode():
    for make in (
        lambda: open_image(PIXELS, orientation="up"),
        lambda: MGMImageProcessor(orientation="up"),
        lambda: MGMImageProcessor(orientation=None),
        lambda: MGMImageProcessor.from_dict({"orientation": 6}),
    ):
        with pytest.raises(MGMError, match=r"orientation is .*; choose one of upright, stored"):
            make()


def test_processor_orientation_is_saved(tmp_path):
    content = file_of(6)  # the light quarter is at the upper right of the upright image
    upright, stored = MGMImageProcessor(), MGMImageProcessor(orientation=STORED)
    assert upright.orientation == UPRIGHT
    expected = {
        mode: upright.high_resolution(open_image(content, orientation=mode))
        for mode in (UPRIGHT, STORED)
    }
    assert not np.array_equal(expected[UPRIGHT], expected[STORED])

    def seen(processor, **options):
        views = processor(content, do_normalize=False, return_tensors="np", **options)
        return views["pixel_values_aux"][0].transpose(1, 2, 0)

    assert np.array_equal(seen(upright), expected[UPRIGHT])
    assert np.array_equal(seen(stored), expected[STORED])
    assert np.array_equal(seen(upright, orientation=STORED), expected[STORED])
    stored.save_pretrained(tmp_path)
    assert MGMImageProcessor.from_pretrained(tmp_path).orientation == STORED
    fields = {name: value for name, value in stored.to_dict().items() if name != "orientation"}
    assert MGMImageProcessor.from_dict(fields).orientation == UPRIGHT

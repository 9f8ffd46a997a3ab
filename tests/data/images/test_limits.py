import io
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from mgm.data.images.decoding import read_image_header
from mgm.data.images.formats.avif import max_frame_pixels
from mgm.data.images.limits import (
    LOCAL_LIMITS,
    NETWORK_FORMATS,
    NETWORK_LIMITS,
    ImageLimits,
    MemoryBudget,
)
from mgm.data.images.loading import image_size, open_image
from mgm.errors import MGMError
from tests.data.images.written_formats import skip_unless_written

SMALL = ImageLimits(NETWORK_FORMATS, max_pixels=10_000, max_side=200)


def file_of(kind, size=(30, 20), **options):
    file = io.BytesIO()
    Image.new("RGB", size, "teal").save(file, kind, **options)
    return file.getvalue()


def refused(content, limits, message):
    with pytest.raises(MGMError, match=message) as caught:
        open_image(content, "image 1", limits=limits)
    assert str(caught.value).startswith("image 1: ")


@pytest.mark.parametrize("kind", NETWORK_FORMATS)
def test_formats_allowed_from_the_network(kind):
    skip_unless_written(kind)
    content = file_of(kind)
    assert open_image(content, limits=NETWORK_LIMITS).size == (30, 20)
    assert image_size(content, limits=NETWORK_LIMITS) == (30, 20)
    refused(file_of(kind, (101, 100)), SMALL, "is 101 x 100, more than 10,000 pixels")
    refused(file_of(kind, (201, 4)), SMALL, "longer than 200 pixels")


@pytest.mark.parametrize("kind", ["PPM", "ICO", "TGA", "SGI", "PCX", "DDS", "JPEG2000"])
def test_other_formats_from_local_files_only(kind):
    content = file_of(kind, (32, 32))
    assert open_image(content).size == (32, 32)
    refused(content, NETWORK_LIMITS, "is not an image of these formats: JPEG, PNG")


def test_decoding_starts_no_program(monkeypatch):
    content = file_of("EPS")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("started"))
    for limits in (LOCAL_LIMITS, NETWORK_LIMITS):
        refused(content, limits, "PostScript is not supported")
        refused(Image.open(io.BytesIO(content)), limits, "PostScript is not supported")


def test_tile_size_of_a_tiff():
    tile = zlib.compress(bytes(144 * 144))
    entries = {
        256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: 144, 323: 144, 324: 0, 325: len(tile)
    }  # fmt: skip
    entries[324] = 8 + 2 + 12 * len(entries) + 4
    head = struct.pack("<4sIH", b"II*\0", 8, len(entries))
    body = b"".join(struct.pack("<HHII", tag, 4, 1, entries[tag]) for tag in sorted(entries))
    content = head + body + bytes(4) + tile
    assert open_image(content).size == (16, 16)
    refused(content, SMALL, "decodes to 20,736 pixels")


@pytest.mark.parametrize("size", [(16, 16), (150, 2)])
def test_frame_size_of_an_avif(size):
    skip_unless_written("AVIF")
    content = bytearray(file_of("AVIF", (144, 100)))
    assert max_frame_pixels(bytes(content)) == 144 * 100
    at = content.index(b"ispe") + 8
    content[at : at + 8] = struct.pack(">II", *size)
    assert max_frame_pixels(bytes(content)) == 144 * 100
    with pytest.raises(MGMError, match="decodes to 14,400 pixels"):
        read_image_header(bytes(content), "image", SMALL)


def test_frame_sizes_of_avif_variants():
    skip_unless_written("AVIF")
    frames = [Image.effect_noise((64, 48), 50).convert("RGB") for _ in range(3)]
    file = io.BytesIO()
    frames[0].save(file, "AVIF", save_all=True, append_images=frames[1:])
    for content in (
        file.getvalue(),
        file_of("AVIF", (64, 48), subsampling="4:4:4"),
        file_of("AVIF", (64, 48), quality=100, tile_rows=1),
    ):
        assert max_frame_pixels(content) == 64 * 48
        for cut in range(0, len(content), max(len(content) // 50, 1)):
            max_frame_pixels(content[:cut])  # ends without an error
    assert max_frame_pixels(b"") is None
    assert max_frame_pixels(b"\0" * 1000) is None


def test_frame_larger_than_the_screen_of_a_gif():
    content = bytearray(file_of("GIF", (144, 100)))
    content[6:10] = struct.pack("<HH", 1, 1)
    refused(bytes(content), SMALL, "is 144 x 100")


def test_jpeg_with_too_many_scans():
    content = file_of("JPEG", progressive=True)
    scan = content.rindex(b"\xff\xda")
    last = content[scan:-2]
    refused(content[:scan] + last * 600 + b"\xff\xd9", NETWORK_LIMITS, "scans, more than 200")


def test_memory_estimate_is_an_upper_bound():
    for kind in ("PNG", "JPEG", "WEBP"):
        assert read_image_header(file_of(kind), "image").decoding_bytes >= 30 * 20 * 7
    baseline, progressive = (
        read_image_header(file_of("JPEG", progressive=one), "image").decoding_bytes
        for one in (False, True)
    )
    assert progressive > baseline


def test_memory_budget_is_fair():
    budget, lock = MemoryBudget(100), threading.Lock()
    used, peak, order = 0, 0, []

    def work(number, size):
        nonlocal used, peak
        with budget.reserve(size):
            with lock:
                order.append(number)
                used += min(size, 100)
                peak = max(peak, used)
            time.sleep(0.01)
            with lock:
                used -= min(size, 100)

    sizes = [60, 60, 30, 1000, 10, 10, 100, 0]  # an image larger than the budget runs alone
    threads = []
    with budget.reserve(100):
        for number, size in enumerate(sizes):
            threads.append(threading.Thread(target=work, args=(number, size)))
            threads[-1].start()
            time.sleep(0.005)
        assert order == []
    for thread in threads:
        thread.join(10)
    assert peak <= 100
    assert sorted(order) == list(range(len(sizes)))
    assert order.index(1) < order.index(3) < order.index(6)


def test_error_releases_memory():
    budget = MemoryBudget(10)
    for _ in range(3):
        with pytest.raises(KeyError), budget.reserve(10):
            raise KeyError
    with budget.reserve(10):
        pass


def test_tall_images_are_padded_in_bands(monkeypatch):
    from mgm.data import image_processing_mgm
    from mgm.data.image_processing_mgm import MGMImageProcessor

    processor = MGMImageProcessor(image_size_aux=64, image_size=28)
    noise = np.random.default_rng(5).integers(0, 256, (311, 97, 3), np.uint8)
    whole = processor.high_resolution(Image.fromarray(noise))
    monkeypatch.setattr(image_processing_mgm, "MAX_BAND_PIXELS", 4096)
    assert np.array_equal(processor.high_resolution(Image.fromarray(noise)), whole)

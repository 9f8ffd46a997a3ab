import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from mgm.data import image_processing_mgm as image_processor
from mgm.data.image_processing_mgm import CLIP_MEAN, MGMImageProcessor
from mgm.data.images.bicubic import visible_span
from mgm.data.images.loading import open_image
from mgm.errors import MGMError
from tests.golden_files import golden, golden_json

BICUBIC = Image.Resampling.BICUBIC
HD = {"image_size_aux": 1536, "image_grid": 2, "image_global": True}


def sha(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:32]


def golden_cases():
    cases = [case for case in golden_json("preprocess/preprocess.json") if "sha_image" in case]
    available = []
    for case in cases:
        try:
            available.append((case, golden(f"images/{case['image']}")))
        except pytest.skip.Exception:
            continue  # tests/golden has only some of the images
    assert available
    return available


def test_bits_equal_published():
    for case, path in golden_cases():
        processor = MGMImageProcessor(
            image_aspect_ratio=case["aspect"], **(HD if case["hd"] else {})
        )
        what = case["image"], case["aspect"], case["hd"]
        assert sha(processor.high_resolution(open_image(path))) == case["sha_aux_u8_hwc"], what
        views = processor(path)
        assert sha(views["pixel_values_aux"][0]) == case["sha_image_aux"], what
        crops = views["pixel_values"][0]
        assert crops.shape == (5 if case["hd"] else 1, 3, 336, 336)
        assert sha(crops) == case["sha_image"], what
        assert views["pixel_values"].dtype == views["pixel_values_aux"].dtype == torch.float32


def test_uint8_view_equals_published_picture():
    compared = 0
    for case, path in golden_cases():
        if "aux_u8_png" not in case:
            continue
        processor = MGMImageProcessor(
            image_aspect_ratio=case["aspect"], **(HD if case["hd"] else {})
        )
        try:
            picture = golden(f"preprocess/{case['aux_u8_png']}")
        except pytest.skip.Exception:
            continue
        expected = np.asarray(Image.open(picture))
        assert np.array_equal(processor.high_resolution(open_image(path)), expected)
        compared += 1
    assert compared


@pytest.fixture
def small_pictures(monkeypatch):
    """Fail if an intermediate image has more than 16 million pixels."""

    def checked(original, size_of):
        def call(*args, **keywords):
            assert np.prod(size_of(args)) <= 2**24
            return original(*args, **keywords)

        return call

    monkeypatch.setattr(Image, "new", checked(Image.new, lambda args: args[1]))
    resize = checked(Image.Image.resize, lambda args: args[1])
    monkeypatch.setattr(Image.Image, "resize", resize)


@pytest.mark.parametrize("mode", ["exact", "fast"])
@pytest.mark.parametrize("size", [(60_000, 2), (2, 60_000), (999_999, 1), (3, 20_000)])
def test_elongated_images_take_little_memory(small_pictures, size, mode):
    image = Image.fromarray(np.full((*reversed(size), 3), 255, dtype=np.uint8))
    padded = MGMImageProcessor(28, 256, mode=mode).high_resolution(image)
    line = padded[128] if size[0] > size[1] else padded[:, 128]
    assert (line == line[0]).all()
    assert (padded[0, 0] == (122, 116, 104)).all()
    middle = MGMImageProcessor(28, 256, image_aspect_ratio="square", mode=mode)
    assert (middle.high_resolution(image) == 255).all()


@pytest.mark.parametrize("aspect", ["pad", "square"])
@pytest.mark.parametrize("size", [(1300, 130), (130, 1300), (901, 7)])
def test_elongated_images(monkeypatch, aspect, size):
    image = Image.effect_noise(size, 90).convert("RGB")
    processor = MGMImageProcessor(28, 64, image_aspect_ratio=aspect)
    monkeypatch.setattr(image_processor, "MAX_PIXEL_RATIO", 0)
    short_cut = processor.high_resolution(image)
    monkeypatch.setattr(image_processor, "MAX_PIXEL_RATIO", float("inf"))
    assert np.array_equal(short_cut, processor.high_resolution(image))


def test_tall_images_are_resized_horizontally_first():
    image = Image.effect_noise((90, 400), 90).convert("RGB")
    processor = MGMImageProcessor(28, 64, image_aspect_ratio="square")
    rows = [image.crop((0, y, 90, y + 1)).resize((64, 1), BICUBIC) for y in range(400)]
    narrow = Image.fromarray(np.concatenate([np.asarray(row) for row in rows]))
    columns = [narrow.crop((x, 0, x + 1, 400)).resize((1, 284), BICUBIC) for x in range(64)]
    expected = np.concatenate([np.asarray(column) for column in columns], axis=1)[110:174]
    assert np.array_equal(processor.high_resolution(image), expected)


@pytest.mark.parametrize("aspect", ["pad", "square"])
def test_fast_mode_is_within_one_grey_level(aspect):
    draw = np.random.default_rng(3)
    exact = MGMImageProcessor(56, 128, image_aspect_ratio=aspect)
    fast = MGMImageProcessor(56, 128, image_aspect_ratio=aspect, mode="fast")
    differences = []
    for index in range(40):
        width, height = (int(side) for side in draw.integers(20, 500, 2))
        pixels = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        if index % 2:  # black and white only, where bicubic interpolation overshoots
            pixels = (pixels & 128) // 128 * 255
        image = Image.fromarray(pixels)
        left, right = (p.high_resolution(image).astype(int) for p in (exact, fast))
        assert left.shape == right.shape == (128, 128, 3)
        differences.append(np.abs(left - right))
    assert np.max(differences) == 1
    assert np.mean(differences) < 0.05


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (128, 128), (128, 90), (90, 128), (9, 7)])
@pytest.mark.parametrize("aspect", ["pad", "square"])
def test_exact_mode_equals_pillow(aspect, size):
    image = Image.effect_noise(size, 120).convert("RGB")
    (width, height), long = size, max(size)
    if aspect == "pad":
        square = Image.new("RGB", (long, long), (122, 116, 104))
        square.paste(image, ((long - width) // 2, (long - height) // 2))
        expected = np.asarray(square.resize((128, long), BICUBIC).resize((128, 128), BICUBIC))
    else:
        wide, high = (128 if n == min(size) else int(128 * n / min(size)) for n in size)
        resized = np.asarray(image.resize((wide, height), BICUBIC).resize((wide, high), BICUBIC))
        top, left = (high - 128) // 2, (wide - 128) // 2
        expected = resized[top : top + 128, left : left + 128]
    processor = MGMImageProcessor(56, 128, image_aspect_ratio=aspect)
    assert np.array_equal(processor.high_resolution(image), expected)


@pytest.mark.parametrize("side", [28, 96, 224, 333])
def test_skipped_margins_change_no_bit(side):
    """Random sizes with margins at the left or top, compared with the padded image."""
    draw = np.random.default_rng(side)
    processor = MGMImageProcessor(side // 2, side, image_aspect_ratio="pad")
    left_out = 0
    for _ in range(60):
        width, height = draw.integers(8, 400, 2).tolist()
        image = Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))
        long, short = max(width, height), min(width, height)
        whole = Image.new("RGB", (long, long), tuple(int(mean * 255) for mean in CLIP_MEAN))
        whole.paste(image, ((long - width) // 2, (long - height) // 2))
        whole = whole.resize((side, long), BICUBIC)
        whole = whole.resize((side, side), BICUBIC)
        assert np.array_equal(processor.high_resolution(image), np.asarray(whole)), (width, height)
        left_out += visible_span(long, short, side).results < side
    assert left_out > 5


def test_images_in_uint8():
    processor = MGMImageProcessor(28, 64, 2, True)
    images = [Image.effect_noise((40, 30), 60).convert("RGB"), Image.new("RGB", (8, 9), "red")]
    pixels = processor(images, do_normalize=False)
    assert set(pixels) == {"pixel_values_aux"}
    high = pixels["pixel_values_aux"]
    assert high.shape == (2, 3, 64, 64)
    assert high.dtype == torch.uint8
    assert high.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(high[0].permute(1, 2, 0), processor.high_resolution(images[0]))
    raw = MGMImageProcessor(28, 64, 2, True, do_normalize=False)
    assert torch.equal(raw(images)["pixel_values_aux"], high)
    assert raw(images, do_normalize=True)["pixel_values"].shape == (2, 5, 3, 28, 28)
    assert isinstance(raw(images, return_tensors="np")["pixel_values_aux"], np.ndarray)


def test_several_high_definition_images():
    processor = MGMImageProcessor(28, 128, image_grid=2, image_global=True)
    images = [Image.new("RGB", (40, 30), colour) for colour in ("red", "lime", "blue")]
    views = processor(images)
    assert views["pixel_values"].shape == (3, 5, 3, 28, 28)
    assert views["pixel_values_aux"].shape == (3, 3, 128, 128)
    for index, image in enumerate(images):
        alone = processor(image)
        assert torch.equal(alone["pixel_values"][0], views["pixel_values"][index])


def test_crops_are_row_major_with_the_global_view_last():
    image = Image.new("RGB", (64, 64))
    image.paste("white", (32, 0, 64, 32))  # the right half of the upper half
    crops = MGMImageProcessor(28, 128, image_grid=2, image_global=True)(image)["pixel_values"][0]
    bright = [crop.mean().item() > 1 for crop in crops]
    assert bright == [False, True, False, False, False]
    assert crops[4, :, :12, 16:].mean() > 1 > crops[4, :, 16:, :12].mean()


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_towers_with_different_normalisations(mode):
    image = Image.effect_noise((64, 64), 90).convert("RGB")
    half, aux = ([0.5] * 3, [0.5] * 3), ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    processor = MGMImageProcessor(28, 64, 2, True, "pad", *half, *aux, mode=mode)
    views = processor(image)
    values = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(figures).view(3, 1, 1) for figures in aux)
    assert torch.allclose(views["pixel_values_aux"][0], (values - mean) / std, atol=1e-5)
    low = F.interpolate(((values - 0.5) / 0.5)[None], (56, 56), mode="bilinear")
    whole = F.interpolate(low, (28, 28), mode="bilinear")
    crops = views["pixel_values"][0]
    assert torch.allclose(crops[1], low[0, :, :28, 28:], atol=1e-5)
    assert torch.allclose(crops[4], whole[0], atol=1e-5)
    # The margins of a padded image have the mean colour of the image processor.
    margin = processor.high_resolution(Image.new("RGB", (64, 2)))[0, 0]
    assert margin.tolist() == [int(255 * mean) for mean in aux[0]]


def test_settings_survive_saving(tmp_path):
    processor = MGMImageProcessor(28, 64, 2, True, "square", mode="fast")
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "preprocessor_config.json").is_file()
    again = MGMImageProcessor.from_pretrained(tmp_path)
    assert again.to_dict() == processor.to_dict()
    assert again.crops == 5


def test_invalid_settings():
    with pytest.raises(MGMError, match=r"'anyres'.*pad, square"):
        MGMImageProcessor(image_aspect_ratio="anyres")
    with pytest.raises(MGMError, match=r"'quick'.*exact, fast"):
        MGMImageProcessor(mode="quick")
    for wrong in (
        {"image_size": "336"},
        {"image_size_aux": 0},
        {"image_grid": 1.5},
        {"image_mean": [0, 0]},
        {"image_std": None},
        {"image_mean_aux": [0.5]},
    ):
        with pytest.raises(MGMError, match=f"^{next(iter(wrong))} is .*; give"):
            MGMImageProcessor(**wrong)
    with pytest.raises(MGMError, match="no image given"):
        MGMImageProcessor()([])


def test_errors_name_the_image():
    good = Image.new("RGB", (4, 4))
    with pytest.raises(MGMError, match=r"image 2 of 2: /nowhere.png: there is no such file"):
        MGMImageProcessor(28, 64)([good, "/nowhere.png"])


def test_arrays_in_and_arrays_out():
    image = Image.effect_noise((40, 30), 60).convert("RGB")
    processor = MGMImageProcessor(28, 64)
    expected = processor(image)
    output = processor(np.asarray(image), return_tensors="np")
    for name, tensor in expected.items():
        assert isinstance(output[name], np.ndarray)
        assert np.array_equal(output[name], tensor.numpy())
    grey = np.asarray(image)[..., 0]
    pixels = processor([grey, image])["pixel_values"]
    assert torch.equal(pixels[0], processor(np.stack([grey] * 3, axis=-1))["pixel_values"][0])
    with pytest.raises(MGMError, match="return_tensors is 'tf'; choose 'pt', 'np' or None"):
        processor(image, return_tensors="tf")

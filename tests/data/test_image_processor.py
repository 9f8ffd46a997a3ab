import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from mgm.data.bilinear import resize_bilinear
from mgm.data.image_processor import MGMImageProcessor
from mgm.data.images import open_image
from mgm.errors import MGMError
from tests.golden_files import golden, golden_json

HD = {"image_size_aux": 1536, "image_grid": 2, "image_global": True}


def sha(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:32]


def golden_cases():
    cases = [case for case in golden_json("preprocess/preprocess.json") if "sha_image" in case]
    found = []
    for case in cases:
        try:
            found.append((case, golden(f"images/{case['image']}")))
        except pytest.skip.Exception:
            continue  # the selection in tests/golden holds a few images
    assert found
    return found


def test_every_bit_is_published():
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


def test_fast_mode_is_close():
    image = Image.effect_noise((150, 90), 60).convert("RGB")
    for aspect in ("pad", "square"):
        exact = MGMImageProcessor(56, 128, image_aspect_ratio=aspect)
        fast = MGMImageProcessor(56, 128, image_aspect_ratio=aspect, mode="fast")
        left, right = (p.high_resolution(image).astype(int) for p in (exact, fast))
        assert left.shape == right.shape == (128, 128, 3)
        assert np.abs(left - right).max() <= 2
        assert np.abs(left - right).mean() < 0.1
        low = exact.low_resolution(fast.normalise(left.astype(np.uint8)))
        assert torch.allclose(
            low, fast.low_resolution(fast.normalise(left.astype(np.uint8))), atol=1e-5
        )


def test_bilinear_equals_torch():
    view = torch.randn(2, 3, 37, 64, generator=torch.Generator().manual_seed(0))
    for side in (8, 37, 50, 101):
        expected = F.interpolate(view, (side, side), mode="bilinear", align_corners=False)
        assert torch.allclose(resize_bilinear(view, side), expected, atol=1e-4)


def test_several_high_definition_images():
    processor = MGMImageProcessor(28, 128, image_grid=2, image_global=True)
    images = [Image.new("RGB", (40, 30), colour) for colour in ("red", "lime", "blue")]
    views = processor(images)
    assert views["pixel_values"].shape == (3, 5, 3, 28, 28)
    assert views["pixel_values_aux"].shape == (3, 3, 128, 128)
    for index, image in enumerate(images):
        alone = processor(image)
        assert torch.equal(alone["pixel_values"][0], views["pixel_values"][index])


def test_crops_stand_row_by_row_and_the_whole_comes_last():
    image = Image.new("RGB", (64, 64))
    image.paste("white", (32, 0, 64, 32))  # the right half of the upper half
    crops = MGMImageProcessor(28, 128, image_grid=2, image_global=True)(image)["pixel_values"][0]
    bright = [crop.mean().item() > 1 for crop in crops]
    assert bright == [False, True, False, False, False]
    assert crops[4, :, :12, 16:].mean() > 1 > crops[4, :, 16:, :12].mean()


def test_settings_survive_saving(tmp_path):
    processor = MGMImageProcessor(28, 64, 2, True, "square", mode="fast")
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "preprocessor_config.json").is_file()
    again = MGMImageProcessor.from_pretrained(tmp_path)
    assert again.to_dict() == processor.to_dict()
    assert again.crops == 5


def test_wrong_settings_name_the_choices():
    with pytest.raises(MGMError, match=r"'anyres'.*pad, square"):
        MGMImageProcessor(image_aspect_ratio="anyres")
    with pytest.raises(MGMError, match=r"'quick'.*exact, fast"):
        MGMImageProcessor(mode="quick")
    with pytest.raises(MGMError, match="no image given"):
        MGMImageProcessor()([])


def test_errors_say_which_image():
    good = Image.new("RGB", (4, 4))
    with pytest.raises(MGMError, match=r"image 2 of 2: /nowhere.png: there is no such file"):
        MGMImageProcessor(28, 64)([good, "/nowhere.png"])

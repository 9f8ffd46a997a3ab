import numpy as np
import pytest
import torch
from PIL import Image

from mgm.data.images.loading import image_size, open_image
from mgm.errors import MGMError

PIXELS = np.random.default_rng(3).integers(0, 256, (6, 9, 4), np.uint8)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("kind", ["uint8", "float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_channel_orders_and_dtypes(channels, first, batch, kind, library):
    pixels = PIXELS[..., :channels]
    expected = np.repeat(pixels, 3, 2) if channels == 1 else pixels[..., :3]
    tensor = torch.from_numpy(pixels.transpose(2, 0, 1) if first else pixels)
    tensor = tensor[None] if batch else tensor
    if kind != "uint8":
        tensor = (tensor.double() / 255).to(getattr(torch, kind))
    if library == "torch":
        opened = open_image(tensor.requires_grad_(kind != "uint8"))
    elif kind == "bfloat16":
        pytest.skip("numpy has none")
    else:
        opened = open_image(tensor.numpy())
    assert (opened.mode, opened.size) == ("RGB", (9, 6))
    close = 1 if kind == "bfloat16" else 0
    assert np.abs(np.asarray(opened).astype(int) - expected).max() <= close


def test_grey_bool_and_views():
    grey = PIXELS[..., 0]
    assert np.array_equal(np.asarray(open_image(grey))[..., 0], grey)
    assert np.array_equal(np.asarray(open_image(torch.from_numpy(grey)))[..., 0], grey)
    assert np.array_equal(np.asarray(open_image(grey > 99))[..., 0], (grey > 99) * 255)
    turned = PIXELS[::-1, ::-2, :3]
    assert np.array_equal(np.asarray(open_image(turned)), turned)
    assert open_image(np.zeros((1, 9, 3), np.uint8)).size == (9, 1)
    assert open_image(Image.fromarray(PIXELS[..., :3])).size == (9, 6)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 4), np.uint8), "channels could come first or last"),
        (np.zeros((3, 9, 3), np.uint8), "channels could come first or last"),
        (np.zeros((1, 9, 1), np.uint8), "channels could come first or last"),
        (np.zeros((9, 9, 5), np.uint8), "no channels first or last"),
        (np.zeros((2, 9, 9, 3), np.uint8), "2 images; give each by itself"),
        (np.zeros(9, np.uint8), "shape (9,); give uint8"),
        (np.zeros((), np.uint8), "shape (); give uint8"),
        (np.zeros((1, 1, 9, 9, 3), np.uint8), "give uint8"),
        (np.zeros((0, 5, 3), np.uint8), "no pixels"),
        (np.zeros((9, 9, 3), np.int64), "int64 and shape (9, 9, 3); give uint8"),
        (np.zeros((9, 9, 3), np.uint16), "uint16"),
        (np.zeros((9, 9, 3), object), "object"),
        (np.full((9, 9, 3), 255.0), "values from 255 to 255"),
        (np.full((9, 9, 3), -0.5), "values from -0.5 to -0.5"),
        (np.full((9, 9, 3), np.nan), "values from nan to nan"),
        (torch.zeros(9, 9, 3).to_sparse(), "of an unusual kind"),
        (torch.zeros(3, 9, 9, device="meta"), "of an unusual kind"),
    ],
)
def test_invalid_arrays(array, message):
    with pytest.raises(MGMError) as caught:
        open_image(array, "image 2 of 3")
    assert str(caught.value).startswith("image 2 of 3: is a")
    assert message in str(caught.value)


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_size_is_checked_before_copying(kind, library, monkeypatch):
    """With a broadcast array, whose copy would take gigabytes."""
    monkeypatch.setattr(np, "ascontiguousarray", None)
    huge, long = ((30_000, 30_000, 3), (2, 2_000_000, 3))
    for shape, message in ((huge, "30000 x 30000, more"), (long, ".* longer than 1,000,000")):
        array = np.broadcast_to(np.zeros((), kind), shape)
        if library == "torch":
            array = torch.zeros((), dtype=getattr(torch, kind.__name__)).expand(shape)
        with pytest.raises(
            MGMError, match=rf"^image 1: is {'.*' if shape is long else ''}{message}"
        ):
            open_image(array, "image 1")
    assert image_size(array) == (2_000_000, 2)

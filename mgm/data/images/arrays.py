"""numpy arrays and torch tensors to Pillow images."""

import sys
from typing import Any, Protocol, TypeGuard

import numpy as np
from PIL import Image

from mgm.errors import MGMError

CHANNELS = (1, 3, 4)  # grey, RGB, RGBA
ADVICE = (
    "give uint8 from 0 to 255 or floats from 0 to 1, as (height, width), (height, width, channels) "
    "or (channels, height, width) with 1, 3 or 4 channels"
)


class Tensor(Protocol):
    """A torch tensor. Servers without a model have no use for torch, so nothing imports it here."""

    def detach(self) -> Any:
        """The same numbers without their history."""


def is_array(source: object) -> TypeGuard[np.ndarray | Tensor]:
    """Whether it is a numpy array or a torch tensor."""
    if isinstance(source, np.ndarray):
        return True
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.Tensor)


def array_to_image(array: Any, label: str) -> Image.Image:
    """A grey, RGB or RGBA image of pixels.

    Args:
        array: numpy or torch: (height, width), or with 1, 3 or 4 channels first or last; a batch of
            one may come before these. uint8, bool, or floats from 0 to 1.
        label: which image it is; errors begin with it.

    Raises:
        MGMError: the shape or the values say no image, or say several.
    """
    pixels = array if isinstance(array, np.ndarray) else _from_tensor(array, label)
    what = f"{label}: is an array of {pixels.dtype} and shape {tuple(pixels.shape)}"
    if pixels.ndim == 4:
        if pixels.shape[0] != 1:
            raise MGMError(f"{what}, {pixels.shape[0]} images; give each by itself")
        pixels = pixels[0]
    if pixels.ndim not in (2, 3):
        raise MGMError(f"{what}; {ADVICE}")
    if 0 in pixels.shape:
        raise MGMError(f"{what}, without a pixel; {ADVICE}")
    if pixels.ndim == 3:
        pixels = _channels_last(pixels, what)
    pixels = np.ascontiguousarray(_levels(pixels, what))
    return Image.fromarray(pixels)


def _from_tensor(tensor: Any, label: str) -> np.ndarray:
    try:
        tensor = tensor.detach().cpu()
        if tensor.is_floating_point():
            tensor = tensor.float()  # numpy has no bfloat16
        return tensor.numpy()
    except (RuntimeError, TypeError, ValueError) as error:
        raise MGMError(
            f"{label}: is a {tensor.dtype} tensor of an unusual kind; {ADVICE}"
        ) from error


def _channels_last(pixels: np.ndarray, what: str) -> np.ndarray:
    """(height, width, channels), without the channel axis where there is one channel."""
    first, last = (size if size in CHANNELS else 0 for size in (pixels.shape[0], pixels.shape[2]))
    if not first and not last:
        raise MGMError(f"{what}, which has no channels first or last; {ADVICE}")
    # Where both could be channels, colours are likelier than an image of one row or column.
    if first and last and (first > 1) == (last > 1):
        raise MGMError(
            f"{what}: channels could come first or last; give a Pillow image, or pad the image"
        )
    if max(first, last) == first:
        pixels = pixels.transpose(1, 2, 0)
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels


def _levels(pixels: np.ndarray, what: str) -> np.ndarray:
    """The same as uint8."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * 255
    if pixels.dtype.kind != "f":
        raise MGMError(f"{what}; {ADVICE}")
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):  # not a number compares as false
        raise MGMError(f"{what}, with values from {low:.4g} to {high:.4g}; {ADVICE}")
    return (pixels.astype(np.float32) * 255).round().astype(np.uint8)

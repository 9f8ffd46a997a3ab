"""Converts numpy arrays and torch tensors to Pillow images."""

import sys
from typing import Any, Protocol, TypeGuard

import numpy as np
from PIL import Image

from mgm.data.images.decoding import check_size
from mgm.data.images.limits import LOCAL_LIMITS, ImageLimits
from mgm.errors import MGMError

_ROWS = 256  # converted at a time
CHANNELS = (1, 3, 4)  # grey, RGB, RGBA
ADVICE = (
    "give uint8 from 0 to 255 or floats from 0 to 1, as (height, width), (height, width, channels) "
    "or (channels, height, width) with 1, 3 or 4 channels"
)


class Tensor(Protocol):
    """Protocol of a torch tensor, which avoids the import of torch in servers without a model."""

    def detach(self) -> Any:
        """The tensor without its autograd graph."""


def is_array(source: object) -> TypeGuard[np.ndarray | Tensor]:
    """Whether a value is a numpy array or a torch tensor."""
    if isinstance(source, np.ndarray):
        return True
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.Tensor)


def array_to_image(array: Any, label: str, limits: ImageLimits = LOCAL_LIMITS) -> Image.Image:
    """Convert an array to a greyscale, RGB or RGBA Pillow image.

    Args:
        array: numpy or torch, of shape (height, width), (height, width, channels) or (channels,
            height, width) with 1, 3 or 4 channels, also with a leading batch dimension of 1;
            uint8, bool, or floats from 0 to 1.
        label: name of the image in errors.
        limits: maximum size.

    Raises:
        MGMError: shape or values are not those of one image, or it exceeds the limits.
    """
    what = _description(array, label)
    # Checked before any copy: a broadcast array may be huge although its memory is small.
    check_size(array_size(array, label), label, limits)
    if array.ndim == 4:
        array = array[0]
    pixels = array if isinstance(array, np.ndarray) else _from_tensor(array, label)
    if pixels.ndim == 3:
        axis = _channel_axis(pixels.shape, what)
        pixels = pixels.transpose(1, 2, 0) if axis == 0 else pixels
        pixels = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    return Image.fromarray(np.ascontiguousarray(_levels(pixels, what)))


def array_size(array: Any, label: str) -> tuple[int, int]:
    """Width and height of the image in an array.

    Raises:
        MGMError: the shape is not that of one image.
    """
    what, shape = _description(array, label), tuple(array.shape)
    if len(shape) == 4:
        if shape[0] != 1:
            raise MGMError(f"{what}, {shape[0]} images; give each by itself")
        shape = shape[1:]
    if len(shape) not in (2, 3):
        raise MGMError(f"{what}; {ADVICE}")
    if 0 in shape:
        raise MGMError(f"{what}, no pixels; {ADVICE}")
    if len(shape) == 3:
        axis = _channel_axis(shape, what)
        shape = (*shape[:axis], *shape[axis + 1 :])
    return shape[1], shape[0]


def _description(array: Any, label: str) -> str:
    dtype = str(array.dtype).removeprefix("torch.")
    return f"{label}: is an array of {dtype} and shape {tuple(array.shape)}"


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


def _channel_axis(shape: tuple[int, ...], what: str) -> int:
    """The axis of the channels: 0 or 2."""
    first, last = (size if size in CHANNELS else 0 for size in (shape[0], shape[2]))
    if not first and not last:
        raise MGMError(f"{what}, which has no channels first or last; {ADVICE}")
    # If both could be channels, prefer colour to an image of one row or column.
    if first and last and (first > 1) == (last > 1):
        raise MGMError(
            f"{what}: channels could come first or last; give a Pillow image, or pad the image"
        )
    return 0 if max(first, last) == first else 2


def _levels(pixels: np.ndarray, what: str) -> np.ndarray:
    """Convert pixel values to uint8."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * 255
    if pixels.dtype.kind != "f":
        raise MGMError(f"{what}; {ADVICE}")
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):  # comparisons with NaN are false
        raise MGMError(f"{what}, with values from {low:.4g} to {high:.4g}; {ADVICE}")
    levels = np.empty(pixels.shape, np.uint8)
    for begin in range(0, len(pixels), _ROWS):  # a float copy of all may not fit into memory
        rows = slice(begin, begin + _ROWS)
        levels[rows] = (pixels[rows].astype(np.float32) * 255).round()
    return levels

"""`MGMImageProcessor`: resizes images to a high-resolution view and low-resolution crops.

Shape legend: S low-resolution side, A high-resolution side, both in pixels.
"""

from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from mgm.data.images.bicubic import Line, resize_in_line, visible_span
from mgm.data.images.loading import ImageSource, image_list, open_image
from mgm.data.images.orientation import UPRIGHT, check_orientation
from mgm.errors import MGMError
from mgm.model.config_checks.rules import IMAGE_MEAN, IMAGE_STD, MAX_IMAGE_GRID, MAX_IMAGE_SIZE
from mgm.model.files.json_fields import shown
from mgm.model.vision.image_views import ImageViews

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# Fields that image processor and `MGMConfig` share.
IMAGE_CONFIG_FIELDS = (
    "image_size",
    "image_size_aux",
    "image_grid",
    "image_global",
    "image_aspect_ratio",
    "image_mean",
    "image_std",
    "image_mean_aux",
    "image_std_aux",
)
ASPECT_RATIOS = ("pad", "square")
RESIZE_MODES = ("exact", "fast")
MAX_BAND_PIXELS = 2**24  # pixels of a padded image that are in memory at a time
MAX_PIXEL_RATIO = 4  # maximum ratio of padded or enlarged pixels; beyond it, `Line`


class MGMImageProcessor(BaseImageProcessor):
    """Prepares images for `MGMForConditionalGeneration`.

    Args:
        image_size: low-resolution side of a crop, in pixels.
        image_size_aux: high-resolution side, in pixels.
        image_grid: crops per side of the low-resolution view.
        image_global: whether a view of the whole image follows the grid's crops.
        image_aspect_ratio: "pad" (to a square, with the mean colour) or "square" (center crop after
            resizing the shorter side).
        image_mean: mean of each colour channel in the low-resolution views, of values from 0 to 1.
        image_std: standard deviation of each colour channel in the low-resolution views.
        image_mean_aux: mean for the high-resolution view; None: `image_mean`.
        image_std_aux: standard deviation for the high-resolution view; None: `image_std`.
        mode: "exact" resizes with Pillow, bit for bit as released models were trained; "fast"
            downscales with torch, which differs by at most one of 256 levels.
        do_normalize: whether calls return both views normalised, in float32; False: only the
            high-resolution view in uint8, from which the model computes both.
        orientation: "upright" applies the EXIF orientation; "stored" does not.
    """

    model_input_names: ClassVar[list[str]] = ["pixel_values", "pixel_values_aux"]  # ty: ignore[incompatible-attribute-override]

    def __init__(
        self,
        image_size: int = 336,
        image_size_aux: int = 768,
        image_grid: int = 1,
        image_global: bool = False,
        image_aspect_ratio: str = "pad",
        image_mean: tuple[float, ...] = CLIP_MEAN,
        image_std: tuple[float, ...] = CLIP_STD,
        image_mean_aux: tuple[float, ...] | None = None,
        image_std_aux: tuple[float, ...] | None = None,
        mode: str = "exact",
        do_normalize: bool = True,
        orientation: str = UPRIGHT,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_orientation(orientation)
        for field, value, choices in (
            ("image_aspect_ratio", image_aspect_ratio, ASPECT_RATIOS),
            ("mode", mode, RESIZE_MODES),
        ):
            if value not in choices:
                raise MGMError(f"{field} is {shown(value)}; choose one of {', '.join(choices)}")
        sizes = {"image_size": image_size, "image_size_aux": image_size_aux}
        limits = dict.fromkeys(sizes, MAX_IMAGE_SIZE) | {"image_grid": MAX_IMAGE_GRID}
        for field, value in (sizes | {"image_grid": image_grid}).items():
            if type(value) is not int or not 1 <= value <= limits[field]:
                raise MGMError(
                    f"{field} is {shown(value)}; give a whole number from 1 to {limits[field]}"
                )
        for field, value in (("image_global", image_global), ("do_normalize", do_normalize)):
            if not isinstance(value, bool):
                raise MGMError(f"{field} is {shown(value)}; give true or false")
        image_mean_aux = image_mean if image_mean_aux is None else image_mean_aux
        image_std_aux = image_std if image_std_aux is None else image_std_aux
        for field, value in (
            ("image_mean", image_mean),
            ("image_std", image_std),
            ("image_mean_aux", image_mean_aux),
            ("image_std_aux", image_std_aux),
        ):
            rule = IMAGE_STD if "std" in field else IMAGE_MEAN
            if not rule.accepts(value):
                raise MGMError(f"{field} is {shown(value)}; give {rule.valid}")
        self.image_size = image_size
        self.image_size_aux = image_size_aux
        self.image_grid = image_grid
        self.image_global = image_global
        self.image_aspect_ratio = image_aspect_ratio
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        self.image_mean_aux = list(image_mean_aux)
        self.image_std_aux = list(image_std_aux)
        self.mode = mode
        self.do_normalize = do_normalize
        self.orientation = orientation

    @property
    def crops(self) -> int:
        """Number of low-resolution crops of an image, with the global view."""
        return self.image_grid**2 + int(self.image_global and self.image_grid > 1)

    def preprocess(
        self,
        images: ImageSource | list[ImageSource],
        return_tensors: str | None = "pt",
        do_normalize: bool | None = None,
        orientation: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Preprocess one image or several; the same as calling the processor.

        Args:
            images: a source that `open_image` takes, or a list of them.
            return_tensors: "pt" (or None) for torch tensors, "np" for arrays.
            do_normalize: overrides the constructor's; None: does not.
            orientation: overrides the constructor's; None: does not.
            **kwargs: options of other image processors; none is supported.

        Returns:
            `pixel_values` (images, crops, 3, S, S), crops row by row with the global view last,
            and `pixel_values_aux` (images, 3, A, A), both float32 and normalised; without
            normalisation only `pixel_values_aux`, in uint8 and with channels last in memory.

        Raises:
            MGMError: an image cannot be opened, or `return_tensors` is invalid.
        """
        check_tensor_kind(return_tensors)
        sources = image_list(images)
        if not sources:
            raise MGMError("no image given; omit images for text-only input")
        side = self.image_size_aux
        pixels = torch.empty((len(sources), side, side, 3), dtype=torch.uint8)
        for index, source in enumerate(sources):
            label = f"image {index + 1} of {len(sources)}"
            image = open_image(source, label, orientation or self.orientation)
            pixels[index].numpy()[:] = self.high_resolution(image)
        data = {"pixel_values_aux": pixels.permute(0, 3, 1, 2)}
        if self.do_normalize if do_normalize is None else do_normalize:
            views = ImageViews.of(self, exact=self.mode == "exact")
            high = views.normalise(data["pixel_values_aux"])
            data = {"pixel_values": views.low_resolution(high), "pixel_values_aux": high}
        if return_tensors == "np":
            data = {name: tensor.numpy() for name, tensor in data.items()}
        return BatchFeature(data)

    def high_resolution(self, image: Image.Image) -> np.ndarray:
        """The high-resolution view of an RGB image: uint8 (A, A, 3)."""
        side = self.image_size_aux
        short, long = sorted(image.size)
        colour = tuple(int(mean * 255) for mean in self.image_mean_aux)
        if self.image_aspect_ratio == "pad":
            if long * long > MAX_PIXEL_RATIO * max(short * long, side * side):
                line = Line(long, (long - short) // 2, side, 0)
                return resize_in_line(image, line, image.width == short, side, colour)
            # The padding keeps its colour, so that only the span that shows the image is resized.
            span, start = visible_span(long, short, side), (long - short) // 2
            shown = slice(span.lead, span.lead + span.last - span.first)
            length = span.end - span.begin
            result = np.empty((side, side, 3), dtype=np.uint8)
            result.reshape(side, -1)[:] = np.tile(np.array(colour, dtype=np.uint8), side)
            if image.width == long:
                picture = Image.new("RGB", (side, length), colour)
                picture.paste(_across(image, side), (0, start - span.begin))
                result[span.first : span.last] = self._down(picture, span.results)[shown]
            else:
                bands = []
                rows = max(MAX_BAND_PIXELS // length, 1)
                for top in range(0, long, rows):  # padding at once could take four times the memory
                    height = min(rows, long - top)
                    whole = height == long
                    band = image if whole else image.crop((0, top, image.width, top + height))
                    padded = Image.new("RGB", (length, height), colour)
                    padded.paste(band, (start - span.begin, 0))
                    padded = _across(padded, span.results)
                    bands.append(padded.crop((shown.start, 0, shown.stop, height)))
                picture = bands[0] if len(bands) == 1 else _stacked(bands)
                result[:, span.first : span.last] = self._down(picture, side)
            return result
        # Compat: the longer side is truncated, not rounded, and so are odd margins.
        width, height = (side if n == short else int(side * n / short) for n in image.size)
        top, left = (height - side) // 2, (width - side) // 2
        if width * height > MAX_PIXEL_RATIO * max(short * long, side * side):
            line = Line(long, 0, max(width, height), top + left)
            return resize_in_line(image, line, image.width == long, side, colour)
        image = _across(image, width).crop((left, 0, left + side, image.height))
        return self._down(image, height)[top : top + side]

    def _down(self, image: Image.Image, height: int) -> np.ndarray:
        if self.mode == "exact" or height == image.height:
            return np.asarray(image.resize((image.width, height), Image.Resampling.BICUBIC))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]  # channels last in memory
        resized = F.interpolate(pixels, (height, image.width), mode="bicubic", antialias=True)
        return resized[0].permute(1, 2, 0).numpy()


def check_tensor_kind(return_tensors: str | None) -> None:
    """Raise an MGMError unless `return_tensors` is "pt", "np" or None."""
    if return_tensors not in ("pt", "np", None):
        raise MGMError(f"return_tensors is {return_tensors!r}; choose 'pt', 'np' or None")


def _across(image: Image.Image, width: int) -> Image.Image:
    # Compat: horizontally, then vertically; Pillow 13 reverses the order for tall images.
    return image.resize((width, image.height), Image.Resampling.BICUBIC)


def _stacked(bands: list[Image.Image]) -> Image.Image:
    """Concatenate images of equal width vertically."""
    picture = Image.new("RGB", (bands[0].width, sum(band.height for band in bands)))
    top = 0
    for band in bands:
        picture.paste(band, (0, top))
        top += band.height
    return picture

"""Validates the arguments of a processor call: options, padding, image counts."""

from collections.abc import Collection, Sequence
from typing import Any

from mgm.data.images.loading import ImageSource, image_list
from mgm.data.text.templates import IMAGE_MARKER
from mgm.errors import MGMError


def flatten_options(kwargs: dict[str, Any], supported: Collection[str]) -> dict[str, Any]:
    """Flatten options in transformers' groups (`text_kwargs`, `images_kwargs`, ...).

    Args:
        kwargs: keyword arguments of a processor call.
        supported: the processor's options; others are dropped if they are false or None.

    Raises:
        MGMError: an option is not supported.
    """
    groups = ("text_kwargs", "images_kwargs", "videos_kwargs", "audio_kwargs", "common_kwargs")
    nested = [kwargs[name] or {} for name in groups if name in kwargs]
    flat = {name: value for name, value in kwargs.items() if name not in groups}
    for group in nested:
        flat |= group
    for name, value in flat.items():
        if name not in supported and value:
            raise MGMError(
                f"{name} is {value!r}, which this processor does not support; choose from "
                f"{', '.join(supported)}"
            )
    return {name: value for name, value in flat.items() if name in supported}


def check_max_length(rows: Sequence[Sequence[int]], max_length: int | None) -> None:
    """Raise an error in place of truncating rows of token ids.

    Raises:
        MGMError: a row is longer than `max_length`.
    """
    longest = max(map(len, rows))
    if max_length is not None and longest > max_length:
        raise MGMError(
            f"a text takes {longest} positions and max_length is {max_length}; texts are not cut, "
            "since that would cut images: give fewer images or a shorter text"
        )


def padded_length(
    rows: Sequence[Sequence[int]], padding: bool | str, max_length: int | None
) -> int:
    """The length that rows of token ids are padded to; 0: no padding.

    Raises:
        MGMError: invalid padding strategy, or `max_length` is missing, too small or not for it.
    """
    longest = max(map(len, rows))
    if padding == "max_length":
        if max_length is None or longest > max_length:
            raise MGMError(f"max_length is {max_length}; give at least {longest}, the longest text")
        return max_length
    if max_length is not None:
        raise MGMError(
            f"max_length is {max_length}, which is allowed only with padding='max_length'"
        )
    if padding not in (True, False, "longest", "do_not_pad"):
        raise MGMError(
            f"padding is {padding!r}; choose True, False, 'longest', 'max_length' or 'do_not_pad'"
        )
    return longest if padding in (True, "longest") else 0


def group_images(images: Any) -> list[list[ImageSource]]:
    """Convert images to one list per text, or to a single list for all texts."""
    if images is None:
        return []
    flat = image_list(images)
    nested = flat and all(isinstance(group, list | tuple) for group in flat)
    return [list(group) for group in flat] if nested else [flat]


def check_image_counts(texts: Sequence[str], groups: Sequence[Sequence[ImageSource]]) -> None:
    """Check that each text has as many image markers as images.

    Raises:
        MGMError: names the first text with different numbers.
    """
    markers = [text.count(IMAGE_MARKER) for text in texts]
    images = [len(group) for group in groups]
    if len(images) == len(texts) > 1:
        for number, pair in enumerate(zip(markers, images, strict=True), start=1):
            if pair[0] != pair[1]:
                raise image_count_error(f"text {number} of {len(texts)}", *pair)
    if sum(markers) != sum(images):
        what = "the text" if len(texts) == 1 else "the texts"
        raise image_count_error(what, sum(markers), sum(images))


def image_count_error(what: str, markers: int, images: int) -> MGMError:
    """The error for the text `what`, whose numbers of markers and images differ."""
    return MGMError(
        f"{what}: {markers} {IMAGE_MARKER} marker{'s' * (markers != 1)} but {images} "
        f"image{'s' * (images != 1)}; give one image for each marker"
    )

"""Images that a record lists beside its conversation, and their assignment to image markers."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mgm.data.images.data_url import looks_like_base64
from mgm.data.images.extensions import IMAGE_EXTENSIONS
from mgm.data.sources.formats.images import NAME_KEYS, read_image, read_images
from mgm.data.sources.formats.messages import ImageReference
from mgm.data.sources.formats.unsupported import is_empty
from mgm.data.sources.sample import SampleError, is_url

_MEMBER = re.compile(rf"(?:.*\.)?(?:{'|'.join(IMAGE_EXTENSIONS)})", re.IGNORECASE)
_ENDING = re.compile(rf"(?:^|\.)(?:{'|'.join(IMAGE_EXTENSIONS)})$", re.IGNORECASE)
_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class ListedImages:
    """The images that a record lists beside its conversation.

    Attributes:
        field: name of their field.
        images: paths, URLs or bytes.
        names: name of each image, which bytes may have too; None: no name.
        are_members: whether they are members of a tar, named by extension: "jpg", "1.png".
        has_order: whether their order is meaningful; that of members in a tar is not.
    """

    field: str
    images: Sequence[str | bytes] = ()
    names: Sequence[str | None] = ()
    are_members: bool = False
    has_order: bool = True


def listed_images(record: Mapping[str, Any], where: str) -> ListedImages:
    """The images of a record; members of a tar take precedence over images in its JSON.

    Raises:
        SampleError: an image is broken, or two fields have different images.
    """
    fields = [name for name in ("image", "images") if name in record and not is_empty(record[name])]
    files = [
        name for name, value in record.items()
        if isinstance(value, dict | bytes) and _holds_file(value) and _MEMBER.fullmatch(name)
    ]  # fmt: skip
    if files:
        return _members(record, files, fields, where)
    if not fields:
        return ListedImages("image")
    first, *others = [read_images(record[field], field, where) for field in fields]
    if others and others != [first]:
        raise SampleError(f"{where}: 'image' and 'images' differ; keep one of them")
    return ListedImages(fields[0], first, _image_names(record[fields[0]]))


def _holds_file(value: dict[str, Any] | bytes) -> bool:
    if isinstance(value, bytes):
        return True
    return {"bytes", "path"} <= value.keys() and not is_empty(value)


def _members(
    record: Mapping[str, Any], files: list[str], fields: Sequence[str], where: str
) -> ListedImages:
    """Images in members of a tar, in the order in which the record names them, else by number.

    Raises:
        SampleError: the record names only some of them, or has other images.
    """
    numbered = _by_numbers(files)
    files = numbered or files
    label = ", ".join(files)[:100]
    images = read_images([record[name] for name in files], "members", where)
    has_order = numbered is not None or len(files) == 1
    members = ListedImages(label, images, files, are_members=True, has_order=has_order)
    for field in fields:
        names = _image_names(record[field])
        if None in names and read_images(record[field], field, where) != images:
            raise SampleError(
                f"{where}: the images in {field!r} and in the members {label} differ; keep one of "
                "the two"
            )
        order = order_by_name(names, members, where)
        if order is not None:
            return ListedImages(
                label, [images[n] for n in order], [files[n] for n in order], are_members=True
            )
    return members


def _by_numbers(files: Sequence[str]) -> list[str] | None:
    """Sort names by their numbers: 2 before 10.

    None: they also differ in other text, or two have the same numbers.
    """
    split = {name: _DIGITS.split(_ENDING.sub("", name)) for name in files}
    texts = {tuple(parts[::2]) for parts in split.values()}
    numbers = {name: [int(digits) for digits in parts[1::2]] for name, parts in split.items()}
    if len(texts) > 1 or len(set(map(tuple, numbers.values()))) < len(files):
        return None
    return sorted(files, key=numbers.__getitem__)


def refuse_undefined_order(listed: ListedImages, where: str) -> None:
    """Refuse images whose order would be the arbitrary one of members in a tar.

    Raises:
        SampleError: names the images.
    """
    if not listed.has_order:
        raise SampleError(
            f"{where}: the order of its images ({listed.field}) is not defined; number them "
            "(0.png, 1.png), or list their names in 'image'",
            "markers",
        )


def _image_names(value: Any) -> list[str | None]:
    """The names of the images in a field, one or a list; None for an image without a name."""
    return [_image_name(one) for one in (value if isinstance(value, list | tuple) else [value])]


def _image_name(value: Any) -> str | None:
    if isinstance(value, dict):
        return next((_image_name(value[key]) for key in NAME_KEYS if value.get(key)), None)
    if not isinstance(value, str):
        return None
    is_inline = value[:32].lstrip()[:5].lower() == "data:" or looks_like_base64(value)
    return None if is_inline else value


def order_by_name(
    names: Sequence[str | None], listed: ListedImages, where: str
) -> list[int] | None:
    """Indices of listed images, in the order in which the record names them.

    Args:
        names: names in the order of the image markers.
        listed: the images that the record lists.
        where: prefix of errors.

    Returns:
        Indices of all names; None if no name matches, so that the listed order applies.

    Raises:
        SampleError: only some of the names match.
    """
    order: list[int] = []
    for name in names:
        index = None if name is None else _index_of(name, listed, order)
        order.append(-1 if index is None else index)
    if sorted(order) == list(range(len(listed.images))):
        return order
    # A match of the extension ".jpg" with the member "jpg" is not significant.
    sure = [index for index in order if index >= 0 and (
        not listed.are_members or "." in (listed.names[index] or "")
    )]  # fmt: skip
    if not sure:
        return None
    available = ", ".join(str(name) for name in listed.names)
    missing = next((n for n, index in zip(names, order, strict=True) if index < 0), None)
    raise SampleError(
        f"{where}: its image names match only some of the images in {listed.field!r} "
        f"({available:.100})"
        + ("" if missing is None else f", {missing:.80} matches none")
        + "; name each image once, or none of them"
    )


def _index_of(name: str, listed: ListedImages, used: Sequence[int]) -> int | None:
    """The index of the unused listed image with this path, file name or, in a tar, extension."""
    free = [(n, own) for n, own in enumerate(listed.names) if own is not None and n not in used]
    base = name.rpartition("/")[2]
    for text, part in ((name, str), (base, lambda own: own.rpartition("/")[2])):
        for number, own in free:
            if part(own) == text:
                return number
    if not listed.are_members:
        return None
    ends = [(len(own), number) for number, own in free if f".{base.lower()}".endswith(f".{own}")]
    return max(ends)[1] if ends else None


def own_or_listed(
    parts: Sequence[ImageReference], listed: ListedImages, where: str
) -> tuple[str | bytes, ...]:
    """Images of message parts: their own, else those that the record lists.

    Args:
        parts: image reference of each marker.
        listed: the images that the record lists.
        where: prefix of errors.

    Raises:
        SampleError: the assignment of images to parts is ambiguous.
    """
    own = {
        number: read_image(part.source, f"{where}: has", f"as image part {number + 1}")
        for number, part in enumerate(parts)
        if part.source is not None
    }
    own_images, missing = list(own.values()), len(parts) - len(own)
    if listed.images and not missing:
        if own_images == list(listed.images):
            return tuple(own_images)
        # Images in a list or a tar, and parts that name them.
        embedded = all(isinstance(one, bytes) for one in listed.images)
        if embedded and all(isinstance(one, str) and not is_url(one) for one in own_images):
            order = order_by_name([_image_name(one) for one in own_images], listed, where)
            if order is not None:
                return tuple(listed.images[index] for index in order)
            if len(own_images) == len(listed.images):
                refuse_undefined_order(listed, where)
                return tuple(listed.images)
        raise SampleError(
            f"{where}: the images in its messages and in field {listed.field!r} differ; keep one "
            "of the two"
        )
    if missing != len(listed.images):
        count = len(listed.images)
        raise SampleError(
            f"{where}: {missing} image part{'s' * (missing != 1)} without a source but {count} "
            f"image{'s' * (count != 1)} in field {listed.field!r}; give one image for each part",
            "markers",
        )
    names = [one if isinstance(one, str) else None for one in own_images]
    if missing and own_images and order_by_name(names, listed, where) is not None:
        raise SampleError(
            f"{where}: only some of its image parts name images of field {listed.field!r}; name "
            "the image in every part, or in none"
        )
    refuse_undefined_order(listed, where)
    rest = iter(listed.images)
    return tuple(own[n] if n in own else next(rest) for n in range(len(parts)))

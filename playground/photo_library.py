"""Photographs on disk: labelled cut-outs of objects, and backgrounds."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random

from PIL import Image, ImageOps

from mgm.errors import MGMError
from playground.sample import Split
from playground.words import is_held_out

INDEX_FILE = "photos.json"
FETCH_HINT = "fetch them with python -m playground.photos --out DIR"
MIN_BACKGROUND_SHARE = 0.5  # minimum crop, as a share of the largest one that fits


@dataclass(frozen=True)
class Photo:
    """One photograph, a PNG file.

    Attributes:
        file: path relative to the folder.
        name: label of the object, as in "frog"; "" for backgrounds, which get no questions.
        kind: category of the object, as in "animal"; "" for backgrounds.
    """

    file: str
    name: str = ""
    kind: str = ""

    @property
    def is_held_out(self) -> bool:
        """Whether it is excluded from training images."""
        return is_held_out(self.file)


@dataclass(frozen=True)
class Photos:
    """The photographs of a folder.

    Attributes:
        folder: parent of their files.
        cutouts: photographs of one object with a transparent background.
        backgrounds: photographs without transparency.
    """

    folder: Path
    cutouts: tuple[Photo, ...]
    backgrounds: tuple[Photo, ...]

    def choose_cutouts(self, rng: Random, split: Split, count: int) -> list[Photo]:
        """Sample photographs of the split with different names."""
        pool = [p for p in self.cutouts if p.is_held_out == (split == "held_out")]
        chosen: dict[str, Photo] = {}
        while len(chosen) < count:
            photo = rng.choice(pool)
            chosen.setdefault(photo.name, photo)
        return list(chosen.values())

    @property
    def trained_names(self) -> frozenset[str]:
        """Names that occur in training images."""
        return _trained_names(self)

    def cutout(self, photo: Photo, side: int, mirrored: bool) -> Image.Image:
        """Load a cut-out as an RGBA image whose longer side has `side` pixels."""
        image = _read(self.folder / photo.file)
        ratio = side / max(image.size)
        size = max(1, round(image.width * ratio)), max(1, round(image.height * ratio))
        image = image.resize(size, Image.Resampling.LANCZOS)
        return ImageOps.mirror(image) if mirrored else image

    def background(self, size: tuple[int, int], rng: Random, split: Split) -> Image.Image:
        """Sample a crop of a photograph of the split, as an RGB image of `size`."""
        pool = [p for p in self.backgrounds if p.is_held_out == (split == "held_out")]
        image = _read(self.folder / rng.choice(pool).file)
        largest = min(image.width / size[0], image.height / size[1])
        scale = largest * rng.uniform(MIN_BACKGROUND_SHARE, 1.0)
        width, height = size[0] * scale, size[1] * scale
        left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
        box = (left, top, left + width, top + height)
        image = image.resize(size, Image.Resampling.BICUBIC, box, reducing_gap=2.0)
        return ImageOps.mirror(image) if rng.random() < 0.5 else image


@lru_cache
def load_photos(folder: Path) -> Photos:
    """Load the index of a folder that `python -m playground.photos` wrote.

    Raises:
        MGMError: the index is missing or of another version.
    """
    path = folder / INDEX_FILE
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        photos = {
            name: tuple(Photo(**entry) for entry in index[name])
            for name in ("cutouts", "backgrounds")
        }
    except FileNotFoundError as error:
        raise MGMError(f"{path}: no such file; {FETCH_HINT}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise MGMError(f"{path}: is no list of photographs ({error}); {FETCH_HINT}") from error
    return Photos(folder, **photos)


@lru_cache
def _trained_names(photos: Photos) -> frozenset[str]:
    return frozenset(photo.name for photo in photos.cutouts if not photo.is_held_out)


@lru_cache(maxsize=512)
def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image.copy()
    except OSError as error:
        raise MGMError(f"{path}: cannot be read ({error}); {FETCH_HINT}") from error


def listed_photos() -> Iterator[tuple[str, str, str]]:
    """Iterate over (kind, name, file stem) of the photographs listed in photo_names.txt."""
    lines = Path(__file__).with_name("photo_names.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if line and not line.startswith("#"):
            title, _, stems = line.partition(":")
            kind, _, name = title.partition(" ")
            for stem in stems.split():
                yield kind, name, stem

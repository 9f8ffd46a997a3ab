"""Photographs on disk: cut-outs with names, and whole ones as backgrounds."""

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
HOW = "fetch them with python -m playground.photos --out DIR"
MIN_SHOWN = 0.5  # of the shorter side of a background that is shown, at least


@dataclass(frozen=True)
class Photo:
    """One photograph, a PNG file.

    Attributes:
        file: path below the folder; names the photograph.
        name: what it shows, as in "frog"; "" for backgrounds, about which nothing is asked.
        kind: what that is, as in "animal"; "" for backgrounds.
    """

    file: str
    name: str = ""
    kind: str = ""

    @property
    def is_held_out(self) -> bool:
        """Whether it is in no training image."""
        return is_held_out(self.file)


@dataclass(frozen=True)
class Photos:
    """The photographs of a folder.

    Attributes:
        folder: where their files are.
        cutouts: photographs of one thing, transparent around it.
        backgrounds: photographs that fill an image.
    """

    folder: Path
    cutouts: tuple[Photo, ...]
    backgrounds: tuple[Photo, ...]

    def choose_cutouts(self, rng: Random, split: Split, count: int) -> list[Photo]:
        """Photographs of the split, of things with different names."""
        pool = [p for p in self.cutouts if p.is_held_out == (split == "held_out")]
        chosen: dict[str, Photo] = {}
        while len(chosen) < count:
            photo = rng.choice(pool)
            chosen.setdefault(photo.name, photo)
        return list(chosen.values())

    @property
    def trained_names(self) -> frozenset[str]:
        """Names of which a training image can show some photograph."""
        return _trained_names(self)

    def cutout(self, photo: Photo, side: int, mirrored: bool) -> Image.Image:
        """A cut-out as an RGBA image whose longer side has `side` pixels."""
        image = _read(self.folder / photo.file)
        ratio = side / max(image.size)
        size = max(1, round(image.width * ratio)), max(1, round(image.height * ratio))
        image = image.resize(size, Image.Resampling.LANCZOS)
        return ImageOps.mirror(image) if mirrored else image

    def background(self, size: tuple[int, int], rng: Random, split: Split) -> Image.Image:
        """A random part of a photograph of the split, as an RGB image of `size`."""
        pool = [p for p in self.backgrounds if p.is_held_out == (split == "held_out")]
        image = _read(self.folder / rng.choice(pool).file)
        largest = min(image.width / size[0], image.height / size[1])
        scale = largest * rng.uniform(MIN_SHOWN, 1.0)
        width, height = size[0] * scale, size[1] * scale
        left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
        box = (left, top, left + width, top + height)
        image = image.resize(size, Image.Resampling.BICUBIC, box, reducing_gap=2.0)
        return ImageOps.mirror(image) if rng.random() < 0.5 else image


@lru_cache
def load_photos(folder: Path) -> Photos:
    """The photographs that `python -m playground.photos` wrote to a folder.

    Raises:
        MGMError: they are not there, or of another version.
    """
    path = folder / INDEX_FILE
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        photos = {
            name: tuple(Photo(**entry) for entry in index[name])
            for name in ("cutouts", "backgrounds")
        }
    except FileNotFoundError as error:
        raise MGMError(f"{path}: no such file; {HOW}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise MGMError(f"{path}: is no list of photographs ({error}); {HOW}") from error
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
        raise MGMError(f"{path}: cannot be read ({error}); {HOW}") from error


def picture_names() -> Iterator[tuple[str, str, str]]:
    """Kind, name and picture of each line of photo_names.txt."""
    lines = Path(__file__).with_name("photo_names.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if line and not line.startswith("#"):
            title, _, pictures = line.partition(":")
            kind, _, name = title.partition(" ")
            for picture in pictures.split():
                yield kind, name, picture

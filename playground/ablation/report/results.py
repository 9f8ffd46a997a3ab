"""Reads collected results: units, items, and arrays of right answers for estimates."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mgm.errors import MGMError
from playground.ablation.study import Study, result_settings
from playground.cap_heights import HEIGHT_BINS

PRIMARY = "4-8"
NO_TEXT, ALL = "no text", "all"
BINS = (PRIMARY, *(f"{low:g}-{high:g}" for low, high in HEIGHT_BINS), NO_TEXT, ALL)


@dataclass(frozen=True)
class Items:
    """Evaluated items: held-out questions, or a probe's images by height of characters.

    Attributes:
        image: index of the image of each item.
        images: number of images.
        height: cap height in pixels of 256, NaN without text.
        totals: number of questions, or of characters, of each item.
    """

    image: np.ndarray
    images: int
    height: np.ndarray
    totals: np.ndarray

    def selected(self, name: str) -> np.ndarray:
        """Mask of the items in a bin of `BINS`."""
        if name == ALL:
            return np.ones(len(self.height), bool)
        if name == NO_TEXT:
            return np.isnan(self.height)
        low, high = map(float, name.split("-"))
        last = high == HEIGHT_BINS[-1][1]  # the last bin includes its upper edge
        return (self.height >= low) & ((self.height <= high) if last else (self.height < high))

    def by_image(self, values: np.ndarray, name: str) -> np.ndarray:
        """Sum values over the items of a bin for each image, as (images,)."""
        chosen = self.selected(name)
        return np.bincount(self.image[chosen], values[chosen], self.images)


@dataclass(frozen=True)
class UnitResult:
    """The result of a unit.

    Attributes:
        arm: name of its arm.
        items: digest of its items.
        right: number right of each item.
        controls: the same for each control, by name.
        content: the whole collected file.
    """

    arm: str
    size: str
    seed: int
    items: str
    right: np.ndarray
    controls: Mapping[str, np.ndarray]
    content: Mapping[str, Any]


@dataclass(frozen=True)
class Results:
    """All results of a study.

    Attributes:
        units: finished units with the settings of the study.
        other_settings: names of units with other settings, which are not used.
        failed: reason and last log lines of failed units.
    """

    items: Mapping[str, Items]
    units: Sequence[UnitResult]
    other_settings: Sequence[str]
    failed: Mapping[str, Mapping[str, Any]]

    def of(self, size: str, arm: str) -> dict[int, UnitResult]:
        """Results of an arm by seed."""
        return {unit.seed: unit for unit in self.units if (unit.size, unit.arm) == (size, arm)}

    def arrays(self, units: Sequence[UnitResult], name: str) -> tuple[np.ndarray, np.ndarray]:
        """Count right answers (units, images) and questions (images,) of units in a bin.

        Raises:
            MGMError: the units were evaluated on different questions.
        """
        if len({unit.items for unit in units}) > 1:
            arms = ", ".join(sorted({unit.arm for unit in units}))
            raise MGMError(f"{arms}: were evaluated on different questions; run them again")
        items = self.items[units[0].items]
        right = np.stack([items.by_image(unit.right, name) for unit in units])
        return right, items.by_image(items.totals, name)


def read_results(study: Study, folder: Path) -> Results:
    """Read the collected results of a study.

    Raises:
        MGMError: no results were collected.
    """
    if not (folder / "units").is_dir():
        raise MGMError(f"{folder}: has no results; no unit has finished (--run)")
    items = {file.stem: _items(_read(file)) for file in sorted((folder / "items").glob("*.json"))}
    units, other = [], []
    for unit in study.units:
        file = folder / "units" / f"{unit.name}.json"
        if not file.is_file():
            continue
        content = _read(file)
        settings = {n: v for n, v in content["settings"].items() if n != "commit"}
        if result_settings(settings) != result_settings(study.unit_config(unit)):
            other.append(unit.name)
            continue
        right = np.array(content["right"], float)
        controls = {name: np.array(v, float) for name, v in content["controls"].items()}
        units.append(
            UnitResult(
                *(unit.arm.name, unit.size.name, unit.seed, content["items"]),
                *(right, controls, content),
            )
        )
    return Results(items, units, other, _read(folder / "failed.json"))


def _items(columns: Mapping[str, Any]) -> Items:
    names, image = np.unique(np.array(columns["image"]), return_inverse=True)
    height = np.array([np.nan if h is None else h for h in columns["height"]], float)
    return Items(image, len(names), height, np.array(columns["totals"], float))


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))

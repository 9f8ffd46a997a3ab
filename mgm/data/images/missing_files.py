"""Finds missing image files of a data set before training, by listing their folders."""

import os
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from mgm.data.images.loading import file_fault

MAX_SHOWN_CHARACTERS = 200  # maximum characters of a name in an error


def missing_images(
    names: Iterable[tuple[int, Sequence[str | None]]], folder: Path
) -> tuple[dict[int, str], int]:
    """Find the missing image files of samples.

    Args:
        names: index and image paths of each sample; None for an image that is not a file.
        folder: folder that the paths are relative to.

    Returns:
        The first missing image of each sample, with the reason; and the number of missing images.
    """
    # Lists whole folders, since single look-ups are slow on a network: 2 s for 600,000 files.
    listing = cache(_regular_files)
    missing: dict[int, str] = {}
    count = 0
    for index, paths in names:
        for number, path in enumerate(paths, start=1):
            if path is None:
                continue
            file = os.path.join(folder, path)  # noqa: PTH118  a Path is slower
            parent, name = os.path.split(file)
            # On a case-insensitive file system the listed name may differ from the sample's.
            if name not in listing(parent) and (fault := file_fault(file)):
                count += 1
                shown = (
                    file if len(file) <= MAX_SHOWN_CHARACTERS else f"{file[:MAX_SHOWN_CHARACTERS]}…"
                )
                missing.setdefault(index, f"image {number} of {len(paths)}: {shown}: {fault}")
    return missing, count


def _regular_files(folder: str) -> frozenset[str]:
    """Names of the regular files in a folder."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if _is_file(entry))
    except (OSError, ValueError):  # ValueError: NUL in the name
        return frozenset()


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # cyclic symbolic link
        return False

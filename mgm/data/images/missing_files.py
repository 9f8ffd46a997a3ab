"""Finds missing image files of a data set, folder by folder, before training starts."""

import os
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from mgm.data.images.loading import file_fault

MAX_SHOWN_CHARACTERS = 200  # characters of a name that an error shows


def missing_images(
    names: Iterable[tuple[int, Sequence[str | None]]], folder: Path
) -> tuple[dict[int, str], int]:
    """Look for image files.

    Args:
        names: index and image paths of each sample, None for an image that is no file.
        folder: where the paths begin.

    Returns:
        Of each sample that misses images the first, and why; and how many images are missing.
    """
    # Whole folders, since asking for file after file is slow on a network; 2 s for 600,000.
    listing = cache(_regular_files)
    missing: dict[int, str] = {}
    count = 0
    for index, paths in names:
        for number, path in enumerate(paths, start=1):
            if path is None:
                continue
            file = os.path.join(folder, path)  # noqa: PTH118  a Path is slower
            parent, name = os.path.split(file)
            # A file system that ignores case lists another name than the sample has.
            if name not in listing(parent) and (fault := file_fault(file)):
                count += 1
                shown = (
                    file if len(file) <= MAX_SHOWN_CHARACTERS else f"{file[:MAX_SHOWN_CHARACTERS]}…"
                )
                missing.setdefault(index, f"image {number} of {len(paths)}: {shown}: {fault}")
    return missing, count


def _regular_files(folder: str) -> frozenset[str]:
    """Names of the files in a folder; without its folders, pipes and devices."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if _is_file(entry))
    except (OSError, ValueError):  # ValueError: NUL in the name
        return frozenset()


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # of links that lead to one another
        return False

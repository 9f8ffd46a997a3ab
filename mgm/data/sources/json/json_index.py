"""Index of a JSON data file for random access: byte offsets, lengths and images of its samples.

A published instruction file is 1.7 GB of JSON; parsing it in each process of a run would take
minutes and many gigabytes of memory. The index is built once, reading the file in chunks; that of a
large file is saved beside it, or in the user's cache folder if the data folder is not writable.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np

from mgm.atomic import atomic_file
from mgm.data.sources.formats.record import parse_sample
from mgm.data.sources.json.json_file import decode_json, file_elements, unreadable
from mgm.data.sources.sample import Sample, SampleError
from mgm.errors import MGMError

SAVED_FROM = 64 * 2**20  # minimum size of a data file whose index is saved
VERSION = 6  # version of the index format and of the checks
SUFFIX = ".mgm-index.npz"


@dataclass(frozen=True)
class SampleIndex:
    """Arrays with an entry for each usable sample of a file, and the errors of the other samples.

    Attributes:
        indices: index of each sample in the file.
        starts: offset of its first byte.
        ends: offset after its last byte.
        words: number of words of all its messages; an image marker counts as one.
        images: number of images.
        image_paths: concatenated JSON lists, in UTF-8, of the image paths of each sample; null for
            an image that is not a file.
        image_path_ends: offset in `image_paths` after each sample's list; samples without images
            have no list.
        errors: index, kind and error of each unusable sample, as JSON in UTF-8.
        stamp: version of this format, size of the file, and its modification time in nanoseconds.
    """

    indices: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    words: np.ndarray
    images: np.ndarray
    image_paths: np.ndarray
    image_path_ends: np.ndarray
    errors: np.ndarray
    stamp: np.ndarray

    @classmethod
    def of(cls, file: Path) -> Self:
        """Load the saved index of a file if it is valid, else build it.

        Raises:
            MGMError: the file cannot be read, is not a list of samples, or is empty.
        """
        stamp = _stamp(file)
        paths = _index_paths(file)
        for path in paths:
            saved = cls.saved(path, stamp)
            if saved is not None:
                return saved
        index = cls.made(file_elements(file), file, stamp)
        if stamp[1] >= SAVED_FROM:
            for path in paths:
                if index.save(path):
                    break
        return index

    def image_names(self, row: int) -> tuple[str | None, ...]:
        """The image paths of one sample, None for an image that is not a file; () if none is."""
        begin = int(self.image_path_ends[row - 1]) if row else 0
        text = self.image_paths[begin : int(self.image_path_ends[row])].tobytes()
        return tuple(json.loads(text)) if text else ()

    def fault_list(self) -> list[tuple[int, str, str]]:
        """Index, kind (`SampleError.kind`) and error of each unusable sample."""
        return [(index, kind, text) for index, kind, text in json.loads(self.errors.tobytes())]

    @classmethod
    def saved(cls, path: Path, stamp: np.ndarray) -> Self | None:
        """Load a saved index if it exists and has this stamp."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                if not np.array_equal(arrays["stamp"], stamp):
                    return None
                return cls(**{entry.name: arrays[entry.name] for entry in fields(cls)})
        except (OSError, ValueError, KeyError, BadZipFile):  # missing or invalid
            return None

    def save(self, path: Path) -> bool:
        """Save the index; returns whether the path is writable."""
        try:
            with atomic_file(path) as part, part.open("wb") as file:
                np.savez(file, **{entry.name: getattr(self, entry.name) for entry in fields(self)})
        except MGMError:
            return False  # not writable
        return True

    @classmethod
    def made(
        cls, elements: Iterable[tuple[int, int, Any]], label: object, stamp: np.ndarray
    ) -> Self:
        """Build the index of records that are read in order.

        Args:
            elements: start and end of each record, and the record or its error.
            label: name of the file, prefix of errors.
            stamp: version, size and modification time of the data for which it is valid.
        """
        numbers: list[tuple[int, int, int, int, int]] = []
        image_paths = bytearray()
        image_path_ends: list[int] = []
        errors: list[tuple[int, str, str]] = []
        for count, (start, end, raw) in enumerate(elements):
            try:
                sample = parse_sample(raw, f"{label}: sample {count}")
            except SampleError as fault:
                errors.append((count, fault.kind, str(fault)))
                continue
            numbers.append((count, start, end, sample.words, len(sample.images)))
            files = sample.file_names
            image_paths += json.dumps(files).encode() if any(files) else b""
            image_path_ends.append(len(image_paths))
        return cls(
            *np.array(numbers, dtype=np.int64).reshape(-1, 5).T.copy(),
            image_paths=np.frombuffer(bytes(image_paths), dtype=np.uint8),
            image_path_ends=np.array(image_path_ends, dtype=np.int64),
            errors=np.frombuffer(json.dumps(errors).encode(), dtype=np.uint8),
            stamp=stamp,
        )


class SampleFile:
    """The usable samples of a JSON file, read on access.

    Args:
        file: a JSON file with a list of samples, or a JSONL file.

    Attributes:
        index: index of the samples.

    Raises:
        MGMError: the file cannot be read, is not a list of samples, or is empty.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.index = SampleIndex.of(file)
        self._content = np.memmap(file, dtype=np.uint8, mode="r")

    def __len__(self) -> int:
        return len(self.index.indices)

    def __reduce__(self) -> tuple[type["SampleFile"], tuple[Path]]:
        """Pickle the path only: each process opens the file itself."""
        return SampleFile, (self.file,)

    def __getitem__(self, row: int) -> Sample:
        row = range(len(self))[row]
        text = self._content[self.index.starts[row] : self.index.ends[row]].tobytes().decode()
        where = f"{self.file}: sample {self.index.indices[row]}"
        return parse_sample(decode_json(text, where), where)


def _stamp(file: Path) -> np.ndarray:
    try:
        status = file.stat()
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        raise unreadable(file, error) from error
    return np.array([VERSION, status.st_size, status.st_mtime_ns], dtype=np.int64)


def _index_paths(file: Path) -> list[Path]:
    """Paths for the index of a file: beside it, and in the user's cache."""
    return [file.with_name(f"{file.name}{SUFFIX}"), cache_path(str(file.resolve()))]


def cache_path(name: str) -> Path:
    """The path in the user's cache folder for the index of `name`."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mgm"
    return cache / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}{SUFFIX}"

"""Index of a JSON data file: byte offsets and lengths of its samples, so that none stays in memory.

A published instruction file is 1.7 GB of JSON: parsed in every process of a run it takes minutes
and many gigabytes. Here it is read once, in chunks; the index holds of each sample its byte offsets
and what samplers need, its words and images. The index of a large file is saved beside the file, or
in the user's cache where that cannot be written.
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

SAVED_FROM = 64 * 2**20  # bytes of a data file whose index is saved
VERSION = 5  # of the checks too: what they find is saved
SUFFIX = ".mgm-index.npz"


@dataclass(frozen=True)
class SampleIndex:
    """Usable samples of a file, in its order, and the errors of the others.

    Attributes:
        indices: of each sample in the file.
        starts: first byte of each.
        ends: byte after its last.
        words: of all its messages, an image marker counted as one.
        images: how many it has.
        names: its image paths, as a JSON list each, one behind the other, in UTF-8; null for an
            image that is no file.
        name_ends: byte after the last of each sample's list; an empty one has none.
        faults: index, kind of fault and error of each sample that cannot be used, as JSON in UTF-8.
        stamp: version of this format, bytes of the file, and when it was changed, in nanoseconds.
    """

    indices: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    words: np.ndarray
    images: np.ndarray
    names: np.ndarray
    name_ends: np.ndarray
    faults: np.ndarray
    stamp: np.ndarray

    @classmethod
    def of(cls, file: Path) -> Self:
        """The index of a file: a saved one that still fits, or a fresh one.

        Raises:
            MGMError: the file cannot be read, is no list of samples, or holds none.
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
        """The image paths of one sample, None for an image that is no file; () if none is."""
        begin = int(self.name_ends[row - 1]) if row else 0
        text = self.names[begin : int(self.name_ends[row])].tobytes()
        return tuple(json.loads(text)) if text else ()

    def fault_list(self) -> list[tuple[int, str, str]]:
        """Index, kind of fault (`SampleError.kind`) and error of each sample that is bad."""
        return [(index, kind, text) for index, kind, text in json.loads(self.faults.tobytes())]

    @classmethod
    def saved(cls, path: Path, stamp: np.ndarray) -> Self | None:
        """An index that was saved, if it is there and has this stamp."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                if not np.array_equal(arrays["stamp"], stamp):
                    return None
                return cls(**{entry.name: arrays[entry.name] for entry in fields(cls)})
        except (OSError, ValueError, KeyError, BadZipFile):  # none, another format, or damaged
            return None

    def save(self, path: Path) -> bool:
        """Save it; returns whether it could be written there."""
        try:
            with atomic_file(path) as part, part.open("wb") as file:
                np.savez(file, **{entry.name: getattr(self, entry.name) for entry in fields(self)})
        except MGMError:
            return False  # it cannot be written there
        return True

    @classmethod
    def made(
        cls, elements: Iterable[tuple[int, int, Any]], label: object, stamp: np.ndarray
    ) -> Self:
        """Build the index of records that are read in order.

        Args:
            elements: start and end of each record, and the record or its error.
            label: of the file; errors begin with it.
            stamp: version, size and time of the data, by which a saved index is valid.
        """
        numbers: list[tuple[int, int, int, int, int]] = []
        names = bytearray()
        name_ends: list[int] = []
        faults: list[tuple[int, str, str]] = []
        for count, (start, end, raw) in enumerate(elements):
            try:
                sample = parse_sample(raw, f"{label}: sample {count}")
            except SampleError as fault:
                faults.append((count, fault.kind, str(fault)))
                continue
            numbers.append((count, start, end, sample.words, len(sample.images)))
            files = sample.file_names
            names += json.dumps(files).encode() if any(files) else b""
            name_ends.append(len(names))
        return cls(
            *np.array(numbers, dtype=np.int64).reshape(-1, 5).T.copy(),
            names=np.frombuffer(bytes(names), dtype=np.uint8),
            name_ends=np.array(name_ends, dtype=np.int64),
            faults=np.frombuffer(json.dumps(faults).encode(), dtype=np.uint8),
            stamp=stamp,
        )


class SampleFile:
    """The usable samples of a JSON file, each read on access.

    Args:
        file: a JSON file with a list of samples, or a .jsonl file with one in each line.

    Attributes:
        index: of the samples.

    Raises:
        MGMError: the file cannot be read, is no list of samples, or holds none.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.index = SampleIndex.of(file)
        self._content = np.memmap(file, dtype=np.uint8, mode="r")

    def __len__(self) -> int:
        return len(self.index.indices)

    def __reduce__(self) -> tuple[type["SampleFile"], tuple[Path]]:
        """Other processes open the file themselves."""
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
    """The path in the user's cache for the index of `name`."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mgm"
    return cache / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}{SUFFIX}"

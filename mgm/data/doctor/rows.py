"""The records of a data file, in their order and by their places, for whoever examines them."""

import tarfile
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from typing import Any, Protocol

from mgm.data.sources.hf_table import TableRows, is_table
from mgm.data.sources.json.json_file import JSON_ENDINGS, LINE_ENDINGS, read_records
from mgm.data.sources.mixture_config import Source, read_mixture
from mgm.data.sources.shards import (
    TARS,
    TarShard,
    expanded_names,
    rows_of,
    tar_members,
    tar_record,
)
from mgm.data.sources.text_checks import dump_json
from mgm.errors import MGMError


class Rows(Protocol):
    """The records of a data file.

    Attributes:
        endings: of the names of copies.
    """

    endings: tuple[str, ...]

    def records(self) -> Iterable[Any]:
        """All records; of one that cannot be read the error. Images may be one byte each."""
        ...

    def record(self, place: int) -> Any:
        """One record, images and all."""
        ...

    def write(self, places: Sequence[int], file: Path) -> None:
        """Write some of the records as a data file of the same kind."""
        ...


def sources_of(file: Path, config: str | None, split: str) -> list[Source]:
    """The data files that a data path names: itself, those of a mixture, or those of a pattern.

    Args:
        file: as --data_path of training.
        config: which part of a data set on the hub.
        split: which of its splits.

    Raises:
        MGMError: it is a mixture with an error in it, or a pattern of no file.
    """
    sources = read_mixture(file)
    if sources is not None:
        return sources
    names = [str(file)] if file.exists() else expanded_names(str(file))
    return [Source(name, config=config, split=split) for name in names]


def open_rows(source: Source) -> Rows:
    """The records of one data file.

    Raises:
        MGMError: it cannot be read, or has none.
    """
    if "://" in source.path:
        raise MGMError(f"{source.path}: is a URL; download the file, and examine that")
    if source.path.endswith(TARS):
        return TarRows(source.path)
    if is_table(source.path):
        return TableRows(source.path, source.config, source.split)
    return JSONRows(Path(source.path))


class JSONRows:
    """A file of JSON, all of which is kept in memory."""

    endings: tuple[str, ...] = JSON_ENDINGS

    def __init__(self, file: Path) -> None:
        self._records = read_records(file)

    def records(self) -> list[Any]:
        """See `Rows`."""
        return self._records

    def record(self, place: int) -> Any:
        """See `Rows`."""
        return self._records[place]

    def write(self, places: Sequence[int], file: Path) -> None:
        """Write some of the records, in the format of the name's ending."""
        kept = [dump_json(self._records[place]) for place in places]
        is_lines = file.suffix.lower() in LINE_ENDINGS
        text = "\n".join(kept) if is_lines else "[\n" + ",\n".join(kept) + "\n]"
        file.write_text(f"{text}\n", encoding="utf-8")


class TarRows:
    """The samples of a tar on the disk, as streams have them.

    One that is compressed is unpacked into a temporary file when a single sample is asked for.
    """

    endings: tuple[str, ...] = (".tar",)

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = Lock()  # of the archive, which threads share
        self._archive: tarfile.TarFile | None = None
        self._samples: list[list[tuple[str, str, tarfile.TarInfo]]] = []

    def records(self) -> Iterable[Any]:
        """See `Rows`."""
        return rows_of(TarShard(self._name), 0)

    def record(self, place: int) -> Any:
        """See `Rows`."""
        with self._lock:
            archive = self._opened()
            return tar_record(archive, self._samples[place], f"{self._name}: sample {place}")

    def write(self, places: Sequence[int], file: Path) -> None:
        """See `Rows`."""
        with self._lock, tarfile.open(file, "w") as copy:
            archive = self._opened()
            for place in places:
                for _, _, member in self._samples[place]:
                    copy.addfile(member, archive.extractfile(member))

    def _opened(self) -> tarfile.TarFile:
        """The archive, with the members of each sample in `_samples`."""
        if self._archive is None:
            try:
                self._archive = tarfile.open(self._name, "r:")  # noqa: SIM115  is read later
            except tarfile.ReadError:
                self._archive = self._unpacked()
            samples = groupby(tar_members(self._archive), key=lambda found: found[0])
            self._samples = [list(members) for _, members in samples]
        return self._archive

    def _unpacked(self) -> tarfile.TarFile:
        content = TemporaryFile()  # noqa: SIM115  is read later
        with (
            tarfile.open(self._name, "r:*") as packed,
            tarfile.open(fileobj=content, mode="w") as copy,
        ):
            for _, _, member in tar_members(packed):
                copy.addfile(member, packed.extractfile(member))
        content.seek(0)
        return tarfile.open(fileobj=content, mode="r:")

"""Random access to the records of a data file (JSON, tar, table) for the data doctor."""

import shutil
import tarfile
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from typing import Any, BinaryIO, Protocol, cast

from mgm.data.sources.hf_table import TableRecords, is_table, refuse_config_and_split
from mgm.data.sources.json.json_file import JSON_ENDINGS, LINE_ENDINGS, read_json_records
from mgm.data.sources.mixture_config import MixtureSource, read_mixture
from mgm.data.sources.shards import (
    TARS,
    TarShard,
    expanded_names,
    records_of,
)
from mgm.data.sources.tar.reader import Member, TarReader, decompress_tar
from mgm.data.sources.text_checks import dump_json
from mgm.errors import MGMError


class DataRecords(Protocol):
    """The records of a data file.

    Attributes:
        endings: file name extensions of copies.
    """

    endings: tuple[str, ...]

    def records(self) -> Iterable[Any]:
        """All records, or the error of an unreadable one; images may be replaced by one byte."""
        ...

    def record(self, index: int) -> Any:
        """One record with its images."""
        ...

    def write(self, indices: Sequence[int], file: Path) -> None:
        """Write some of the records as a data file of the same kind."""
        ...


def sources_of(file: Path, config: str | None, split: str) -> list[MixtureSource]:
    """The data files of a data path: a single file, or those of a mixture or a pattern.

    Args:
        file: --data_path of training.
        config: configuration of a data set on the hub.
        split: split of a data set.

    Raises:
        MGMError: the mixture is invalid, or the pattern matches no file.
    """
    sources = read_mixture(file)
    if sources is not None:
        return sources
    names = [str(file)] if file.exists() else expanded_names(str(file))
    return [MixtureSource(name, config=config, split=split) for name in names]


def open_records(source: MixtureSource) -> DataRecords:
    """The records of one data file.

    Raises:
        MGMError: the file cannot be read, or has no records.
    """
    if "://" in source.path:
        raise MGMError(f"{source.path}: is a URL; download the file, and examine that")
    if source.path.endswith(TARS):
        refuse_config_and_split(source.path, source.config, source.split)
        return TarRecords(source.path)
    if is_table(source.path):
        return TableRecords(source.path, source.config, source.split)
    refuse_config_and_split(source.path, source.config, source.split)
    return JSONRecords(Path(source.path))


class JSONRecords:
    """The records of a JSON file, all kept in memory."""

    endings: tuple[str, ...] = JSON_ENDINGS

    def __init__(self, file: Path) -> None:
        self._records = read_json_records(file)

    def records(self) -> list[Any]:
        """All records, in the order of the file."""
        return self._records

    def record(self, index: int) -> Any:
        """One record by its index."""
        return self._records[index]

    def write(self, indices: Sequence[int], file: Path) -> None:
        """Write some of the records as JSON or JSONL, depending on the file name extension."""
        kept = [_as_json(self._records[index], index) for index in indices]
        is_lines = file.suffix.lower() in LINE_ENDINGS
        text = "\n".join(kept) if is_lines else "[\n" + ",\n".join(kept) + "\n]"
        file.write_text(f"{text}\n", encoding="utf-8")


def _as_json(record: Any, index: int) -> str:
    try:
        return dump_json(record)
    except RecursionError as error:
        raise MGMError(
            f"sample {index}: is nested too deeply to be written; leave out what is not needed"
        ) from error


class TarRecords:
    """The records of a tar on the disk.

    A compressed tar is decompressed into a temporary file for random access.
    """

    endings: tuple[str, ...] = (".tar",)

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = Lock()  # guards the archive, which is shared by threads
        self._reader: TarReader | None = None
        self._samples: list[list[Member]] = []

    def records(self) -> Iterable[Any]:
        """All records of the tar, read as a stream."""
        return records_of(TarShard(self._name), 0)

    def record(self, index: int) -> Any:
        """One record with its images."""
        with self._lock:
            reader = self._opened()
            return reader.record(self._samples[index], f"{self._name}: sample {index}")

    def write(self, indices: Sequence[int], file: Path) -> None:
        """Write the members of some samples as a tar."""
        with self._lock, tarfile.open(file, "w") as copy:
            archive = self._opened().archive
            for index in indices:
                for _, _, member in self._samples[index]:
                    copy.addfile(member, archive.extractfile(member))

    def _opened(self) -> TarReader:
        """The tar, with the members of each sample in `_samples`."""
        if self._reader is None:
            content: BinaryIO = Path(self._name).open("rb")  # noqa: SIM115  is read later
            plain = decompress_tar(content, self._name)
            if plain is not content:
                copy = cast(BinaryIO, TemporaryFile())  # noqa: SIM115  is read later
                with content, plain:
                    shutil.copyfileobj(plain, copy)
                copy.seek(0)
                content = copy
            self._reader = TarReader(content, self._name)
            samples = groupby(self._reader.members(), key=lambda member: member[0])
            self._samples = [list(members) for _, members in samples]
        return self._reader

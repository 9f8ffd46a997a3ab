"""Shards of streamed data: WebDataset tars, JSON lines and tables, local or remote.

A shard yields its records in order from any start index. Names are paths, or URLs of schemes that
fsspec supports (https, hf, s3, ...); `{00..99}` expands to a range of numbers.
"""

import glob
import logging
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, cast

from mgm.data.sources.hf_table import (
    BUILDERS,
    check_table,
    import_datasets,
    is_saved,
    load_saved,
    reading_errors,
    refuse_config_and_split,
    table_files,
)
from mgm.data.sources.json.json_file import JSON_ENDINGS, elements
from mgm.data.sources.tar.reader import TarReader, TruncatedTarError
from mgm.errors import MGMError, one_line

logger = logging.getLogger(__name__)

TARS = (".tar", ".tar.gz", ".tgz")
RETRIES = 5  # consecutive retries of a remote shard
SHARD_RETRY_DELAY = 1.0  # seconds before the first retry, doubled before each further one

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")

ShardRecord = Any  # a record, or the error from reading it


@dataclass(frozen=True)
class TarShard:
    """A WebDataset tar: files with the same name except the extension are one sample.

    Attributes:
        name: path or URL.
    """

    name: str

    def records(self, start: int) -> Iterator[ShardRecord]:
        """The records from index `start` on."""
        number = -1
        with _open(self.name) as content:
            # Local files are seekable: skipped members are not read.
            reader = TarReader(content, self.name, can_seek=not _is_url(self.name))
            samples = groupby(reader.members(), key=lambda member: member[0])
            for number, (_, members) in enumerate(samples):
                if number >= start:
                    yield reader.record(members, f"{self.name}: sample {number}")
        if number < 0:
            raise MGMError(f"{self.name}: contains no samples; give a tar with at least one")


@dataclass(frozen=True)
class JSONShard:
    """A JSON or JSONL file; see `mgm.data.sources.json.json_file`.

    Attributes:
        name: path or URL.
    """

    name: str
    _warnings: set[str] = field(default_factory=set, compare=False, repr=False)  # logged so far

    def records(self, start: int) -> Iterator[ShardRecord]:
        """The records from index `start` on."""
        with _open(self.name) as content:
            for _, _, record in elements(content, self.name, start, self._warn):
                yield record

    def _warn(self, message: str) -> None:
        """Log a warning once, although the shard is read repeatedly."""
        if message not in self._warnings:
            self._warnings.add(message)
            logger.warning("%s", message)


@dataclass(frozen=True)
class TableShard:
    """One shard of a Hugging Face data set.

    Attributes:
        name: name of the data set with the number of the shard.
        stream: streaming data set of the datasets library, in arrow format.
        number: number of the shard.
        remote: whether it is read over a network.
    """

    name: str
    stream: Any
    number: int
    remote: bool

    def records(self, start: int) -> Iterator[ShardRecord]:
        """The records from index `start` on."""
        part = self.stream.shard(num_shards=self.stream.num_shards, index=self.number)
        for table in part.skip(start).iter(batch_size=1):
            try:
                yield table.to_pylist()[0]
            except UnicodeDecodeError as error:  # a text of this row is not UTF-8
                yield error


Shard = TarShard | JSONShard | TableShard


def shards_of(path: str, config: str | None = None, split: str = "train") -> list[Shard]:
    """The shards of a data path.

    Args:
        path: path or pattern (`*`, `{00..99}`) of tars, JSONL files or tables; or the name of a
            data set on the hub.
        config: configuration of a data set on the hub, if it has several.
        split: split of a data set.

    Raises:
        MGMError: the data does not exist, or is of several kinds.
    """
    names = expanded_names(path)
    if all(name.endswith(TARS) for name in names):
        refuse_config_and_split(path, config, split)
        return [TarShard(name) for name in names]
    if all(name.endswith(JSON_ENDINGS) or _is_other_file(name) for name in names):
        refuse_config_and_split(path, config, split)
        return [JSONShard(name) for name in names]
    if any(name.endswith((*TARS, *JSON_ENDINGS)) for name in names):
        raise MGMError(
            f"{path}: matches files of several types; give only {', '.join(TARS)} files, only "
            ".jsonl or .json files, only tables, or the name of a data set on the hub"
        )
    return list(_tables(path, names, config, split))


def _is_other_file(name: str) -> bool:
    """Whether a name is that of a local file with an unknown extension, to be read as JSON."""
    return not name.endswith((*TARS, *BUILDERS)) and Path(name).is_file()


def records_of(shard: Shard, start: int) -> Iterator[ShardRecord]:
    """The records of a shard from index `start` on, with retries after a lost connection.

    Raises:
        MGMError: the shard cannot be read, or all retries failed.
    """
    done, failed = start, 0
    while True:
        try:
            with closing(cast(Any, shard.records(done))) as records:
                for record in records:
                    yield record
                    done, failed = done + 1, 0
            return
        except Exception as error:
            failed += 1
            remote = shard.remote if isinstance(shard, TableShard) else _is_url(shard.name)
            is_last = failed > RETRIES or not remote
            # A connection that is closed early looks like a truncated file.
            if isinstance(error, MGMError) and (
                is_last or not isinstance(error, TruncatedTarError)
            ):
                raise
            if is_last or isinstance(error, FileNotFoundError):
                reason = getattr(error, "strerror", None) or error or type(error).__name__
                after = f" after sample {done - 1}" if done else ""
                raise MGMError(
                    f"{shard.name}: cannot be read{after} ({one_line(reason)}); download or copy "
                    "the file again, or remove it from the data"
                ) from error
            time.sleep(SHARD_RETRY_DELAY * 2 ** (failed - 1))


def _tables(path: str, names: Sequence[str], config: str | None, split: str) -> Iterator[Shard]:
    datasets, folder = import_datasets(path), Path(path)
    names = table_files(folder) or names
    builder = next(
        (kind for ending, kind in BUILDERS.items() if all(n.endswith(ending) for n in names)), None
    )
    if builder is not None:
        refuse_config_and_split(path, config, split)
    try:
        for name in names if builder is not None else ():
            if not _is_url(name):
                check_table(Path(name))
        if is_saved(folder):
            saved = load_saved(datasets, path, config, split)
            parts = max(1, min(len(saved), len(saved.cache_files)))
            stream = saved.to_iterable_dataset(num_shards=parts)
        elif builder is None:
            stream = datasets.load_dataset(path, config, split=split, streaming=True)
        else:
            stream = datasets.load_dataset(
                builder, data_files=list(names), split="train", streaming=True
            )
    except MGMError:
        raise
    except reading_errors(datasets) as error:
        raise MGMError(
            f"{path}: cannot be streamed ({one_line(error)}); check the path, --data_config and "
            "--data_split"
        ) from error
    stream = stream.decode(False).with_format("arrow")
    remote = any(map(_is_url, names)) or (builder is None and not folder.exists())
    for number in range(stream.num_shards):
        yield TableShard(f"{path}: part {number}", stream, number, remote)


def expanded_names(path: str) -> list[str]:
    """Expand a pattern to file names."""
    braces = _BRACES.search(path)
    if braces:
        first, last = braces.groups()
        numbers = range(int(first), int(last) + 1)
        names = [
            f"{path[: braces.start()]}{number:0{len(first)}d}{path[braces.end() :]}"
            for number in numbers
        ]
        return [name for part in names for name in expanded_names(part)]
    if _is_url(path) or not glob.has_magic(path):
        return [path]
    names = sorted(glob.glob(path))  # noqa: PTH207  absolute patterns too
    if not names:
        raise MGMError(f"{path}: no file matches this pattern; check the path")
    return names


def _is_url(name: str) -> bool:
    return "://" in name


def _open(name: str) -> Any:
    if not _is_url(name):
        return open(name, "rb")  # noqa: PTH123  the caller closes it
    import fsspec

    try:
        return fsspec.open(name, "rb").open()
    except ImportError as error:
        raise MGMError(
            f"{name}: {one_line(error)}; install that package (for http and https: pip install -e "
            "'.[train]')"
        ) from error

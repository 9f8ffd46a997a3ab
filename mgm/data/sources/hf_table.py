"""Hugging Face data sets, parquet and arrow files: memory-mapped rows, parsed on access."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mgm.data.sources.file_kind import foreign_kind, read_head
from mgm.data.sources.formats.record import parse_sample
from mgm.data.sources.json.json_index import VERSION, SampleIndex, cache_path
from mgm.data.sources.sample import Sample
from mgm.errors import MGMError, hub_errors, one_line

if TYPE_CHECKING:
    import datasets
    import pyarrow

BUILDERS = {".parquet": "parquet", ".arrow": "arrow"}  # by file name extension
_PARQUET = b"PAR1"
_MAGIC = {".parquet": (_PARQUET, b"PARE"), ".arrow": (b"ARROW1", b"\xff\xff\xff\xff")}
DEFAULT_SPLIT = "train"  # the default split, and the only one of files
BATCH = 1000  # rows that are indexed at a time
_SAVED = ("state.json", "dataset_dict.json")  # files that `Dataset.save_to_disk` writes
_PLACEHOLDER = b"\0"  # replaces an image's bytes if they are not read


def is_table(path: str) -> bool:
    """Whether a path is a table: a parquet or arrow file, a folder of these, or a data set's name.

    Names on the hub are `owner/name`; a local path of that name takes precedence.
    """
    local = Path(path)
    if local.is_dir():
        return is_saved(local) or bool(table_files(local))
    return local.suffix in BUILDERS or is_hub_name(path)


def is_hub_name(path: str) -> bool:
    """Whether a path is the name `owner/name` of a data set on the hub, and not a local path."""
    parts = path.split("/")
    return len(parts) == 2 and all(parts) and not Path(path).suffix and not Path(path).exists()


class TableFile:
    """The usable samples of a table, read on access; has the interface of `SampleFile`.

    Args:
        path: see `is_table`.
        config: configuration of a data set on the hub, if it has several.
        split: split of a data set.

    Attributes:
        index: index of the samples, built without reading their images.

    Raises:
        MGMError: the table does not exist, cannot be read, or has no rows.
    """

    def __init__(self, path: str, config: str | None = None, split: str = "train") -> None:
        self.path = path
        self.rows = _load(path, config, split)
        stamp = np.array([VERSION, len(self.rows)], dtype=np.int64)
        file = cache_path(f"{path} {self.rows._fingerprint}")
        index = SampleIndex.saved(file, stamp)
        if index is None:
            index = SampleIndex.made(self._elements(), path, stamp)
            index.save(file)
        self.index = index

    def __len__(self) -> int:
        return len(self.index.indices)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the datasets library, different for each revision of a data set."""
        return str(self.rows._fingerprint)

    def __getitem__(self, row: int) -> Sample:
        index = int(self.index.indices[range(len(self))[row]])
        return parse_sample(_row(self.rows, index), f"{self.path}: sample {index}")

    def _elements(self) -> Iterator[tuple[int, int, Any]]:
        for index, record in enumerate(_records(self.rows)):
            yield index, index + 1, record


class TableRecords:
    """The rows of a table as records, without parsing or checks: `DataRecords` of the data doctor.

    Args:
        path: see `is_table`.
        config: configuration of a data set on the hub, if it has several.
        split: split of a data set.

    Attributes:
        endings: file name extensions of copies.

    Raises:
        MGMError: the table does not exist, cannot be read, or has no rows.
    """

    endings: tuple[str, ...] = (".parquet",)

    def __init__(self, path: str, config: str | None = None, split: str = "train") -> None:
        self._rows = _load(path, config, split)

    def records(self) -> Iterator[dict[str, Any] | UnicodeDecodeError]:
        """All rows, with one byte in place of the content of images."""
        return _records(self._rows)

    def record(self, index: int) -> dict[str, Any] | UnicodeDecodeError:
        """One row with its images."""
        try:
            return _row(self._rows, index)
        except UnicodeDecodeError as error:
            return error

    def write(self, indices: Sequence[int], file: Path) -> None:
        """Write some of the rows as a parquet file."""
        self._rows.select(indices).to_parquet(str(file))


def _records(rows: Any) -> Iterator[dict[str, Any] | UnicodeDecodeError]:
    """All rows of a table, decoded by `_decoded`."""
    for start in range(0, len(rows), BATCH):
        yield from _decoded(rows[start : start + BATCH])


def _row(rows: Any, index: int) -> dict[str, Any]:
    return rows[index : index + 1].to_pylist()[0]


def _load(path: str, config: str | None, split: str) -> "datasets.Dataset":
    """Load the table as a data set in arrow format with at least one row."""
    rows = _load_dataset(path, config, split).with_format("arrow")
    if not len(rows):
        raise MGMError(f"{path}: the table has no rows; give one with at least one")
    return rows


def _load_dataset(path: str, config: str | None, split: str) -> "datasets.Dataset":
    datasets = import_datasets(path)
    local = Path(path)
    try:
        if is_saved(local):
            return load_saved(datasets, path, config, split)
        files = (
            table_files(local) if local.is_dir() else [path] if local.suffix in BUILDERS else None
        )
        if files is None:
            return datasets.load_dataset(path, config, split=split)
        refuse_config_and_split(path, config, split)
        for file in files:
            check_table(Path(file))
        builder = BUILDERS[Path(files[0]).suffix]
        return datasets.load_dataset(builder, data_files=files, split="train")
    except MGMError:
        raise
    except reading_errors(datasets) as error:
        reason = one_line(error.__cause__ or error)
        raise MGMError(
            f"{path}: cannot be read as a data set ({reason}); check the path, --data_config and "
            "--data_split"
        ) from error


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by `Dataset.save_to_disk`."""
    return any((folder / name).is_file() for name in _SAVED)


def refuse_config_and_split(path: str, config: str | None, split: str = DEFAULT_SPLIT) -> None:
    """Refuse a config or split for data that has none and would ignore it.

    Raises:
        MGMError: names the config or split.
    """
    for name, value, default in (("config", config, None), ("split", split, DEFAULT_SPLIT)):
        if value not in (default, ""):
            raise MGMError(
                f"{path}: has no {name} {value!r}: files are read whole; omit the {name}"
            )


def load_saved(
    datasets: Any, path: str, config: str | None, split: str = DEFAULT_SPLIT
) -> "datasets.Dataset":
    """Load the data set of a folder that `is_saved`.

    Raises:
        MGMError: it lacks the given split, or a split or config is given that it cannot have.
    """
    loaded = datasets.load_from_disk(path)
    has_splits = isinstance(loaded, Mapping)
    refuse_config_and_split(path, config, DEFAULT_SPLIT if has_splits else split)
    if not has_splits:
        return loaded
    if split not in loaded:
        raise MGMError(f"{path}: has no split {split!r}; valid: {', '.join(loaded)}")
    return loaded[split]


def check_table(file: Path) -> None:
    """Check that a file is a table of the kind of its file name extension.

    Raises:
        MGMError: it is another kind of file, or truncated.
    """
    try:
        head = read_head(file)
        with file.open("rb") as content:
            content.seek(-min(len(_PARQUET), len(head)), 2)
            tail = content.read()
    except OSError as error:
        reason = one_line(error.strerror or error)
        raise MGMError(f"{file}: cannot be read ({reason}); check the path") from error
    expected = _MAGIC[file.suffix]
    if not head.startswith(expected):
        kind = foreign_kind(head) or "text; if it is JSON, rename it to end in .json or .jsonl"
        raise MGMError(f"{file}: is not a table in {BUILDERS[file.suffix]} format but {kind}")
    if head.startswith(_PARQUET) and tail != _PARQUET:
        raise MGMError(f"{file}: is truncated (no PAR1 at its end); download or copy it again")


def import_datasets(path: str) -> Any:
    """Import the datasets library.

    Raises:
        MGMError: it is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise MGMError(
            f"{path}: reading it needs the package datasets; pip install -e '.[train]'"
        ) from error
    return datasets


def reading_errors(datasets: Any) -> tuple[type[Exception], ...]:
    """Exception types of the datasets library for a missing or unreadable data set."""
    return (*hub_errors(), ValueError, RuntimeError, datasets.exceptions.DatasetsError)


def table_files(folder: Path) -> list[str]:
    """The table files in a folder, of the first kind of `BUILDERS` that it has."""
    for ending in BUILDERS:
        if files := sorted(map(str, folder.glob(f"*{ending}"))):
            return files
    return []


def _decoded(table: "pyarrow.Table") -> Sequence[dict[str, Any] | UnicodeDecodeError]:
    """Decode rows without image bytes; a row with text that is not UTF-8 becomes an error."""
    try:
        columns = [_without_bytes(table.column(name)) for name in table.column_names]
    except UnicodeDecodeError as error:
        if len(table) == 1:
            return [error]
        return [row for n in range(len(table)) for row in _decoded(table.slice(n, 1))]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def _without_bytes(column: "pyarrow.ChunkedArray | pyarrow.Array") -> list[Any]:
    """The values of a column, with one byte in place of binary values, which are not read."""
    import pyarrow as pa
    import pyarrow.compute

    if isinstance(column, pa.ChunkedArray):
        return [value for chunk in column.chunks for value in _without_bytes(chunk)]
    pc: Any = pa.compute  # its functions are defined at import
    kind = column.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        lengths = pc.binary_length(column).to_pylist()
        return [None if length is None else _PLACEHOLDER[:length] for length in lengths]
    if pa.types.is_struct(kind):
        names = [kind.field(number).name for number in range(kind.num_fields)]
        inner = [_without_bytes(pc.struct_field(column, [n])) for n in range(kind.num_fields)]
        valid = pc.is_valid(column).to_pylist()
        rows = zip(*inner, strict=True) if inner else [()] * len(column)
        return [
            dict(zip(names, row, strict=True)) if is_valid else None
            for is_valid, row in zip(valid, rows, strict=True)
        ]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        flat = iter(_without_bytes(pc.list_flatten(column)))
        lengths = pc.list_value_length(column).to_pylist()
        return [None if n is None else [next(flat) for _ in range(n)] for n in lengths]
    return column.to_pylist()

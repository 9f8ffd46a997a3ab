"""Hugging Face data sets and parquet files: memory-mapped rows as samples."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mgm.data.sources.formats import as_sample
from mgm.data.sources.json_index import VERSION, SampleIndex, home_in_cache
from mgm.data.sources.sample import Sample, SampleError, check_sample
from mgm.errors import MGMError, hub_errors, one_line

if TYPE_CHECKING:
    import datasets
    import pyarrow

BUILDERS = {".parquet": "parquet", ".arrow": "arrow"}  # of the datasets library, by ending
BATCH = 1000  # rows that are looked at together
_SAVED = ("state.json", "dataset_dict.json")  # what Dataset.save_to_disk leaves
_HERE = b"\0"  # stands for an image's bytes where they are not read


def is_table(path: str) -> bool:
    """Whether a path is a table: a parquet or arrow file, a folder of them, or a data set's name.

    Names on the hub are `owner/name`; what lies on the disk under that name goes first.
    """
    place = Path(path)
    if place.is_dir():
        return any((place / name).is_file() for name in _SAVED) or bool(_files(place))
    return place.suffix in BUILDERS or is_hub_name(path)


def is_hub_name(path: str) -> bool:
    """Whether a path names a data set on the hub: `owner/name`, and nothing on the disk."""
    parts = path.split("/")
    return len(parts) == 2 and all(parts) and not Path(path).suffix and not Path(path).exists()


class TableFile:
    """The samples of a table, each read when it is asked for; as `SampleFile`.

    Args:
        path: see `is_table`.
        config: which part of a data set on the hub, where it has several.
        split: which of a data set's splits.

    Attributes:
        index: what is known of them without reading their images.

    Raises:
        MGMError: there is no such table, or it cannot be read or has no rows.
    """

    def __init__(self, path: str, config: str | None = None, split: str = "train") -> None:
        self.path = path
        self.rows = _load(path, config, split)
        stamp = np.array([VERSION, len(self.rows)], dtype=np.int64)
        home = home_in_cache(f"{path} {self.rows._fingerprint}")
        found = SampleIndex.saved(home, stamp)
        if found is None:
            found = SampleIndex.made(self._elements(), path, stamp)
            found.save(home)
        self.index = found

    def __len__(self) -> int:
        return len(self.index.places)

    def __getitem__(self, row: int) -> Sample:
        place = int(self.index.places[range(len(self))[row]])
        where = f"{self.path}: sample {place}"
        return check_sample(_row(self.rows, place, where), where)

    def _elements(self) -> Iterator[tuple[int, int, Any]]:
        for place, sample in enumerate(_samples(self.rows, f"{self.path}: ")):
            yield place, place + 1, sample


class TableRows:
    """The rows of a table as they stand, for whoever looks for faults in them.

    Args:
        path: see `is_table`.
        config: as for `TableFile`.
        split: likewise.

    Attributes:
        samples: in the published form; of a row that has none, a `SampleError`. An image whose
            bytes are in the table is named by its place.

    Raises:
        MGMError: there is no such table, or it cannot be read or has no rows.
    """

    def __init__(self, path: str, config: str | None = None, split: str = "train") -> None:
        self._rows = _load(path, config, split)
        self._inside: dict[str, tuple[int, int]] = {}  # row and place in it, by name
        self.samples: list[Any] = list(_samples(self._rows))
        for place, sample in enumerate(self.samples):
            images = [] if isinstance(sample, SampleError) else sample["image"] or []
            for number, image in enumerate(images):
                if image == _HERE:
                    images[number] = f"sample {place}, image {number + 1}"
                    self._inside[images[number]] = (place, number)

    def image(self, name: str) -> bytes | None:
        """The image of this name; None: it is a file of its own."""
        if name not in self._inside:
            return None
        place, number = self._inside[name]
        return _row(self._rows, place, name)["image"][number]

    def write(self, places: Sequence[int], file: Path) -> None:
        """Write some of the rows as a parquet file."""
        self._rows.select(places).to_parquet(str(file))


def _samples(rows: Any, begin: str = "") -> Iterator[Any]:
    """All rows in the published form, without what is in their images; of faulty ones the fault.

    Args:
        rows: of a table.
        begin: of what faults say.
    """
    for start in range(0, len(rows), BATCH):
        batch = _decoded(rows[start : start + BATCH])
        for place, row in enumerate(batch, start=start):
            try:
                if isinstance(row, UnicodeDecodeError):
                    raise SampleError(
                        f"{begin}sample {place}: has a text that is not UTF-8 ({row}); mend it, or "
                        "take the row out"
                    ) from row
                yield as_sample(row, f"{begin}sample {place}")
            except SampleError as fault:
                yield fault


def _row(rows: Any, place: int, where: str) -> dict[str, Any]:
    """One row in the published form, images and all."""
    return as_sample(rows[place : place + 1].to_pylist()[0], where)


def _load(path: str, config: str | None, split: str) -> "datasets.Dataset":
    """The rows, as arrow has them; at least one."""
    rows = _found(path, config, split).with_format("arrow")
    if not len(rows):
        raise MGMError(f"{path}: holds no row; give at least one")
    return rows


def _found(path: str, config: str | None, split: str) -> "datasets.Dataset":
    datasets = import_datasets(path)
    place = Path(path)
    try:
        if any((place / name).is_file() for name in _SAVED):
            found = datasets.load_from_disk(path)
            if not isinstance(found, Mapping):
                return found
            if split not in found:
                raise MGMError(f"{path}: has no split {split!r}; choose from {', '.join(found)}")
            return found[split]
        files = _files(place) if place.is_dir() else [path] if place.suffix in BUILDERS else None
        if files is None:
            return datasets.load_dataset(path, config, split=split)
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


def import_datasets(path: str) -> Any:
    """The datasets library.

    Raises:
        MGMError: it is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise MGMError(f"{path}: needs the package datasets; pip install -e '.[train]'") from error
    return datasets


def reading_errors(datasets: Any) -> tuple[type[Exception], ...]:
    """What the datasets library raises where there is no data set, or none that it can read."""
    return (*hub_errors(), ValueError, RuntimeError, datasets.exceptions.DatasetsError)


def _files(folder: Path) -> list[str]:
    """The tables in a folder, of the kind that comes first."""
    for ending in BUILDERS:
        if found := sorted(map(str, folder.glob(f"*{ending}"))):
            return found
    return []


def _decoded(table: "pyarrow.Table") -> Sequence[dict[str, Any] | UnicodeDecodeError]:
    """Rows as `_without_images` gives them; of a row whose texts are not UTF-8 the error."""
    try:
        return _without_images(table)
    except UnicodeDecodeError as error:
        if len(table) == 1:
            return [error]
        return [row for n in range(len(table)) for row in _decoded(table.slice(n, 1))]


def _without_images(table: "pyarrow.Table") -> list[dict[str, Any]]:
    """Rows, in which a byte stands for what is in an image; those are not read from the disk."""
    import pyarrow as pa
    import pyarrow.compute

    pc: Any = pa.compute  # whose functions are made when it is imported

    def seen(column: Any) -> list[Any]:
        held = pc.is_valid(pc.struct_field(column, "bytes")).to_pylist()
        paths = pc.struct_field(column, "path").to_pylist()
        return [_HERE if here else path for here, path in zip(held, paths, strict=True)]

    def values(column: Any) -> list[Any]:
        kind = column.type
        if _is_image(kind):
            return seen(column)
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return [_HERE if held else None for held in pc.is_valid(column).to_pylist()]
        if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _is_image(kind.value_type):
            flat = iter(seen(pc.list_flatten(column)))
            lengths = pc.list_value_length(column).to_pylist()
            return [[next(flat) for _ in range(length or 0)] for length in lengths]
        return column.to_pylist()

    columns = {name: values(table.column(name)) for name in table.column_names}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _is_image(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind}

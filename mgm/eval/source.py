"""Where others' harnesses have a benchmark from: one table with images within, or the hub."""

import ast
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgm.errors import MGMError
from mgm.eval.files import base64_image, field, read_table

Row = tuple[dict[str, Any], tuple[bytes, ...]]  # fields and images
HUB_FOLDER = "hub"  # below the benchmark's
ROWS = 64  # of a parquet file that are read at once
TABLES = "https://opencompass.openxlab.space/utils/VLMEval"
SHORTEST = 64  # characters of an image in base64, at least; less names the row that has it


@dataclass(frozen=True)
class Needed:
    """A file or folder that a benchmark reads.

    Attributes:
        path: below the benchmark's folder; of a data set of the hub, a pattern of its files.
        source: where it comes from, for people.
        url: where it can be had; None: by hand alone.
        md5: of the file; None: it is not known, or a folder.
        dataset: on the Hugging Face hub; None: it is not from there.
    """

    path: str
    source: str
    url: str | None = None
    md5: str | None = None
    dataset: str | None = None


class Source(ABC):
    """Rows of a benchmark.

    Attributes:
        size: of them, if all are there.
    """

    size: int

    @abstractmethod
    def rows(self, folder: Path) -> Iterator[Row]:
        """All rows.

        Args:
            folder: the benchmark's.

        Raises:
            MGMError: a file is missing or damaged.
        """

    @abstractmethod
    def is_there(self, folder: Path) -> bool:
        """Whether there are files of it."""

    @abstractmethod
    def needed(self) -> list[Needed]:
        """What has to lie in the benchmark's folder."""


@dataclass
class Table(Source):
    """A table of VLMEvalKit, separated by tabs, images in base64.

    Attributes:
        name: of the file.
        size: rows.
        md5: of the file. Source: VLMEvalKit's DATASET_MD5.
    """

    name: str
    size: int
    md5: str | None = None

    def rows(self, folder: Path) -> Iterator[Row]:
        """See `Source`."""
        yield from rows_with_images(folder / self.name)

    def is_there(self, folder: Path) -> bool:
        """See `Source`."""
        return (folder / self.name).is_file()

    def needed(self) -> list[Needed]:
        """See `Source`."""
        return [Needed(self.name, "VLMEvalKit's table", f"{TABLES}/{self.name}", self.md5)]


def rows_with_images(file: Path) -> Iterator[Row]:
    """The rows of a table, each with its images; some name an earlier row that has theirs.

    Raises:
        MGMError: the file is missing, or an image is.
    """
    known: dict[str, tuple[bytes, ...]] = {}
    for row in read_table(file):
        index = field(row, "index", file)
        where = f"{file}, index {index}"
        text = field(row, "image", where)
        if text in known:
            images = known[text]
        elif len(text) < SHORTEST:
            raise MGMError(f"{where}: its image is that of {text!r}, which did not come yet")
        else:
            parts = ast.literal_eval(text) if text.startswith("[") else [text]
            images = tuple(base64_image(part, where) for part in parts)
        known[index] = images
        yield {name: value for name, value in row.items() if name != "image"}, images


@dataclass
class HubFiles(Source):
    """Parquet files of a data set of the Hugging Face hub, images within.

    Attributes:
        dataset: its name.
        pattern: of the files.
        size: rows.
    """

    dataset: str
    pattern: str
    size: int

    def rows(self, folder: Path) -> Iterator[Row]:
        """See `Source`."""
        for number, row in enumerate(self.read(folder, self.pattern), start=1):
            yield row, images_of(row.pop("image", None), f"{self.dataset}, row {number}")

    def read(self, folder: Path, pattern: str) -> Iterator[dict[str, Any]]:
        """The rows of some of its files.

        Raises:
            MGMError: there is no such file, or it is damaged.
        """
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError as error:
            raise MGMError(
                f"{self.dataset}: needs pyarrow, which is not installed; pip install -e '.[eval]'"
            ) from error
        files = sorted((folder / HUB_FOLDER).glob(pattern))
        if not files:
            raise MGMError(
                f"{folder / HUB_FOLDER}: has no {pattern} of {self.dataset}; "
                "python -m mgm.eval.prepare says how to get it"
            )
        for file in files:
            try:
                for batch in parquet.ParquetFile(file).iter_batches(ROWS):
                    yield from batch.to_pylist()
            except (pyarrow.ArrowException, OSError) as error:
                raise MGMError(f"{file}: cannot be read ({error}); fetch it again") from error

    def is_there(self, folder: Path) -> bool:
        """See `Source`."""
        return any((folder / HUB_FOLDER).glob(self.pattern))

    def needed(self) -> list[Needed]:
        """See `Source`."""
        source = f"the data set {self.dataset} of the Hugging Face hub"
        return [Needed(self.pattern, source, dataset=self.dataset)]


def images_of(value: Any, where: str) -> tuple[bytes, ...]:
    """The images in a field of a parquet file; none where it is empty.

    Raises:
        MGMError: there is something else.
    """
    values = value if isinstance(value, list) else [value] if value is not None else []
    if not all(isinstance(one, dict) and isinstance(one.get("bytes"), bytes) for one in values):
        raise MGMError(f"{where}: its image is not in the file")
    return tuple(one["bytes"] for one in values)

"""Data sources of lmms-eval and VLMEvalKit: TSV tables and parquet files that contain images."""

import ast
import hashlib
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mgm.atomic import atomic_folder, process_tag, remove_stale_parts
from mgm.errors import MGMError
from mgm.eval.harness.question import valid_text
from mgm.eval.tasks.files import (
    MissingFileError,
    base64_image,
    read_jsonl,
    read_parquet,
    read_table,
    require_field,
)

# Fields of a row, and the paths of its images or why they cannot be read.
UnpackedRow = tuple[dict[str, Any], tuple[Path, ...] | MGMError]
RowWithImages = tuple[dict[str, Any], tuple[bytes, ...] | MGMError]  # a row with its encoded images
HUB_FOLDER = "hub"  # below the folder of the benchmark
UNPACKED_FOLDER, ROWS_FILE, IMAGES_FOLDER, ERROR = "unpacked", "rows.jsonl", "images", "image fault"
VLMEVALKIT_URL = "https://opencompass.openxlab.space/utils/VLMEval/{name}"
MIN_IMAGE_CHARACTERS = 64  # shorter cells of a table are the index of the row with the image


@dataclass(frozen=True)
class RequiredFile:
    """A file or folder that a benchmark reads.

    Attributes:
        path: relative to the benchmark's folder; of a data set of the hub, a glob pattern.
        source: human-readable origin.
        url: URL to download from; None: manual download.
        md5: MD5 of the file; None: unknown, or a folder.
        dataset: dataset on the Hugging Face hub; None: from elsewhere.
        revision: revision of the data set; None: the newest at the first download.
    """

    path: str
    source: str
    url: str | None = None
    md5: str | None = None
    dataset: str | None = None
    revision: str | None = None


class BenchmarkSource(ABC):
    """Rows of a benchmark with their images.

    Images are unpacked to files once, deduplicated by content: later runs start fast and keep only
    the images in memory that they need.

    Attributes:
        size: number of rows.
    """

    size: int

    @abstractmethod
    def files(self, folder: Path) -> list[Path]:
        """The existing files of the source in the benchmark's folder."""

    @abstractmethod
    def read(self, folder: Path) -> Iterator[RowWithImages]:
        """Read all rows with encoded images.

        Raises:
            MGMError: a file is missing or damaged.
        """

    @abstractmethod
    def required_files(self) -> list[RequiredFile]:
        """The files to prepare in the benchmark's folder."""

    def is_there(self, folder: Path) -> bool:
        """Whether any file of the source exists."""
        return bool(self.files(folder))

    def rows(self, folder: Path) -> Iterator[UnpackedRow]:
        """All rows, with their images unpacked to files.

        Args:
            folder: folder of the benchmark.

        Raises:
            MGMError: a file is missing or damaged, or the disk is full.
        """
        stats = [(file, file.stat()) for file in self.files(folder)]
        files = [(file.name, stat.st_size, stat.st_mtime_ns) for file, stat in stats]
        digest = hashlib.blake2b(repr((repr(self), files)).encode(), digest_size=8).hexdigest()
        unpacked = folder / UNPACKED_FOLDER / digest
        if not files:
            next(self.read(folder))  # raises a MissingFileError
        if not unpacked.is_dir():
            remove_stale_parts(unpacked.parent, digest)
            staging = unpacked.with_name(f"{digest}.{process_tag()}")
            with atomic_folder(staging) as part:
                self._unpack(folder, part)
            try:
                staging.rename(unpacked)
            except OSError:  # another process was faster
                shutil.rmtree(staging)
        for record in read_jsonl(unpacked / ROWS_FILE):
            names, error = record.pop(IMAGES_FOLDER), record.pop(ERROR, None)
            images = tuple(unpacked / IMAGES_FOLDER / name for name in names)
            yield record, images if error is None else MGMError(error)

    def _unpack(self, folder: Path, target: Path) -> None:
        (target / IMAGES_FOLDER).mkdir()
        with (target / ROWS_FILE).open("w", encoding="utf-8") as file:
            for fields, images in tqdm(
                self.read(folder), f"unpacking {folder.name}", self.size, delay=2
            ):
                names, error = [], {}
                if isinstance(images, MGMError):
                    images, error = (), {ERROR: str(images)}
                for image in images:
                    names.append(hashlib.blake2b(image, digest_size=16).hexdigest())
                    if not (target / IMAGES_FOLDER / names[-1]).exists():
                        (target / IMAGES_FOLDER / names[-1]).write_bytes(image)
                record = fields | {IMAGES_FOLDER: names} | error
                line = json.dumps(record, ensure_ascii=False, default=str) + "\n"
                file.write(valid_text(line))


@dataclass
class Table(BenchmarkSource):
    """A TSV table of VLMEvalKit with images in base64.

    Attributes:
        name: name of the file.
        size: number of rows.
        md5: MD5 of the file. Source: VLMEvalKit's DATASET_MD5.
        split: split to select by the column `split`; None: all rows.
        url: URL of the file, with {name} for its name; None: VLMEvalKit generates the file.
    """

    # `repr` identifies the unpacked copy, which all splits of a table share.
    name: str
    size: int = dataclass_field(repr=False)
    md5: str | None = None
    split: str | None = dataclass_field(default=None, repr=False)
    url: str | None = dataclass_field(default=VLMEVALKIT_URL, repr=False)

    def files(self, folder: Path) -> list[Path]:
        """The table, if it exists."""
        file = folder / self.name
        return [file] if file.is_file() else []

    def read(self, folder: Path) -> Iterator[RowWithImages]:
        """Read the rows of the table and decode their images."""
        yield from rows_with_images(folder / self.name)

    def rows(self, folder: Path) -> Iterator[UnpackedRow]:
        """The rows of the split."""
        for row, images in super().rows(folder):
            if self.split in (None, row.get("split")):
                yield row, images

    def required_files(self) -> list[RequiredFile]:
        """The table, with its URL and MD5."""
        url = None if self.url is None else self.url.format(name=self.name)
        return [RequiredFile(self.name, "VLMEvalKit's table", url, self.md5)]


def rows_with_images(file: Path) -> Iterator[RowWithImages]:
    """The rows of a table with their images; a row may refer to the images of an earlier one.

    Raises:
        MGMError: the file is missing.
    """
    images_by_index: dict[str, tuple[bytes, ...]] = {}
    errors: list[MGMError] = []  # errors of damaged rows

    def skip(where: str, why: str) -> None:
        errors.append(MGMError(f"{file}, {where}: {why}"))

    for row in read_table(file, skipped=skip):
        yield from (({}, errors.pop(0)) for _ in range(len(errors)))
        images: tuple[bytes, ...] | MGMError
        try:
            index = require_field(row, "index", file)
            location = f"{file}, index {index}"
            images = _decode_images(
                require_field(row, "image", location), images_by_index, location
            )
            images_by_index[index] = images
        except MGMError as error:
            images = error
        yield {name: value for name, value in row.items() if name != "image"}, images
    yield from (({}, error) for error in errors)


def _decode_images(
    text: str, images_by_index: Mapping[str, tuple[bytes, ...]], where: str
) -> tuple[bytes, ...]:
    """Decode the images in a cell, or look up those of the row that it refers to.

    Raises:
        MGMError: invalid content.
    """
    if text in images_by_index:
        return images_by_index[text]
    if len(text) < MIN_IMAGE_CHARACTERS:
        raise MGMError(f"{where}: refers to the image of {text!r}, not an earlier row")
    try:
        parts = ast.literal_eval(text) if text.startswith("[") else [text]
        return tuple(base64_image(part, where) for part in parts)
    except (SyntaxError, ValueError, TypeError) as error:
        raise MGMError(f"{where}: invalid list of images ({error})"[:300]) from error


@dataclass
class HubFiles(BenchmarkSource):
    """Parquet files with images, of a data set of the Hugging Face hub.

    Attributes:
        dataset: name of the data set.
        pattern: glob pattern of the files.
        size: number of rows.
        image: column of the images.
        revision: commit or branch; None: the newest at the first download.
    """

    dataset: str
    pattern: str
    size: int
    image: str = "image"
    revision: str | None = dataclass_field(default=None, repr=False)

    def files(self, folder: Path) -> list[Path]:
        """The downloaded files."""
        return matching(folder, self.pattern)

    def read(self, folder: Path) -> Iterator[RowWithImages]:
        """Read the rows of all files."""
        for row in self.records(folder, self.pattern):
            try:
                yield row, images_of(row.pop(self.image, None), self.dataset)
            except MGMError as error:
                yield row, error

    def records(self, folder: Path, pattern: str) -> Iterator[dict[str, Any]]:
        """The rows of the files that match a pattern.

        Raises:
            MGMError: no such file, or a damaged one.
        """
        files = matching(folder, pattern)
        if not files:
            raise MissingFileError(folder / HUB_FOLDER / pattern, self.dataset)
        for file in files:
            yield from read_parquet(file)

    def required_files(self) -> list[RequiredFile]:
        """The pattern of the files, in the data set on the hub."""
        source = f"the data set {self.dataset} of the Hugging Face hub"
        return [RequiredFile(self.pattern, source, dataset=self.dataset, revision=self.revision)]


def matching(folder: Path, pattern: str) -> list[Path]:
    """Downloaded files of the hub that match a pattern, sorted."""
    return sorted((folder / HUB_FOLDER).glob(pattern))


def images_of(value: Any, where: str) -> tuple[bytes, ...]:
    """The encoded images in a field of a parquet file: bytes or base64, one or a list.

    Raises:
        MGMError: the field contains something else.
    """
    values = value if isinstance(value, list) else [value] if value is not None else []
    contents = [one.get("bytes") if isinstance(one, dict) else one for one in values]
    contents = [base64_image(one, where) if isinstance(one, str) else one for one in contents]
    if not all(isinstance(one, bytes) for one in contents):
        raise MGMError(f"{where}: the file does not contain the image")
    return tuple(contents)

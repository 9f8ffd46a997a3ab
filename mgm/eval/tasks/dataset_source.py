"""Where others' harnesses have a benchmark from: one table with images within, or the hub."""

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
    field,
    read_lines,
    read_parquet,
    read_table,
)

# Fields and images, or what is wrong with these.
Row = tuple[dict[str, Any], tuple[Path, ...] | MGMError]
Packed = tuple[dict[str, Any], tuple[bytes, ...] | MGMError]  # with the images themselves
HUB_FOLDER = "hub"  # below the benchmark's
UNPACKED, ROWS_FILE, IMAGES, FAULT = "unpacked", "rows.jsonl", "images", "image fault"
TABLES = "https://opencompass.openxlab.space/utils/VLMEval/{name}"
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
        revision: of the data set; None: the newest, which is written down when it is fetched.
    """

    path: str
    source: str
    url: str | None = None
    md5: str | None = None
    dataset: str | None = None
    revision: str | None = None


class Source(ABC):
    """Rows of a benchmark, images within.

    They are unpacked once, so that a run starts at once and holds no image that it does not need;
    an image that several rows have becomes one file.

    Attributes:
        size: rows, if all are there.
    """

    size: int

    @abstractmethod
    def files(self, folder: Path) -> list[Path]:
        """Its files in the benchmark's folder; empty: it is not there."""

    @abstractmethod
    def read(self, folder: Path) -> Iterator[Packed]:
        """All rows, from its files.

        Raises:
            MGMError: a file is missing or damaged.
        """

    @abstractmethod
    def needed(self) -> list[Needed]:
        """What has to lie in the benchmark's folder."""

    def is_there(self, folder: Path) -> bool:
        """Whether there are files of it."""
        return bool(self.files(folder))

    def rows(self, folder: Path) -> Iterator[Row]:
        """All rows.

        Args:
            folder: the benchmark's.

        Raises:
            MGMError: a file is missing or damaged, or there is no room to unpack.
        """
        facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns)
                 for file in self.files(folder)]  # fmt: skip
        digest = hashlib.blake2b(repr((repr(self), facts)).encode(), digest_size=8).hexdigest()
        place = folder / UNPACKED / digest
        if not facts:
            next(self.read(folder))  # which says what is missing
        if not place.is_dir():
            remove_stale_parts(place.parent, digest)
            own = place.with_name(f"{digest}.{process_tag()}")
            with atomic_folder(own) as part:
                self._unpack(folder, part)
            try:
                own.rename(place)
            except OSError:  # another process was faster
                shutil.rmtree(own)
        for record in read_lines(place / ROWS_FILE):
            names, fault = record.pop(IMAGES), record.pop(FAULT, None)
            images = tuple(place / IMAGES / name for name in names)
            yield record, images if fault is None else MGMError(fault)

    def _unpack(self, folder: Path, place: Path) -> None:
        (place / IMAGES).mkdir()
        with (place / ROWS_FILE).open("w", encoding="utf-8") as file:
            for fields, images in tqdm(
                self.read(folder), f"unpacking {folder.name}", self.size, delay=2
            ):
                names, fault = [], {}
                if isinstance(images, MGMError):
                    images, fault = (), {FAULT: str(images)}
                for image in images:
                    names.append(hashlib.blake2b(image, digest_size=16).hexdigest())
                    if not (place / IMAGES / names[-1]).exists():
                        (place / IMAGES / names[-1]).write_bytes(image)
                record = fields | {IMAGES: names} | fault
                line = json.dumps(record, ensure_ascii=False, default=str) + "\n"
                file.write(valid_text(line))


@dataclass
class Table(Source):
    """A table of VLMEvalKit, separated by tabs, images in base64.

    Attributes:
        name: of the file.
        size: rows.
        md5: of the file. Source: VLMEvalKit's DATASET_MD5.
        split: of the rows that count, where it has several.
        url: of the file, with {name} for its name; None: VLMEvalKit makes it.
    """

    # Splits of a table are unpacked together: what tells them apart is not in `repr`.
    name: str
    size: int = dataclass_field(repr=False)
    md5: str | None = None
    split: str | None = dataclass_field(default=None, repr=False)
    url: str | None = dataclass_field(default=TABLES, repr=False)

    def files(self, folder: Path) -> list[Path]:
        """See `Source`."""
        file = folder / self.name
        return [file] if file.is_file() else []

    def read(self, folder: Path) -> Iterator[Packed]:
        """See `Source`."""
        yield from rows_with_images(folder / self.name)

    def rows(self, folder: Path) -> Iterator[Row]:
        """See `Source`."""
        for row, images in super().rows(folder):
            if self.split in (None, row.get("split")):
                yield row, images

    def needed(self) -> list[Needed]:
        """See `Source`."""
        url = None if self.url is None else self.url.format(name=self.name)
        return [Needed(self.name, "VLMEvalKit's table", url, self.md5)]


def rows_with_images(file: Path) -> Iterator[Packed]:
    """The rows of a table, each with its images; some name an earlier row that has theirs.

    Raises:
        MGMError: the file is missing.
    """
    known: dict[str, tuple[bytes, ...]] = {}
    faults: list[MGMError] = []  # of rows that are none

    def skip(where: str, why: str) -> None:
        faults.append(MGMError(f"{file}, {where}: {why}"))

    for row in read_table(file, skipped=skip):
        yield from (({}, faults.pop(0)) for _ in range(len(faults)))
        images: tuple[bytes, ...] | MGMError
        try:
            index = field(row, "index", file)
            images = _images_in(field(row, "image", f"{file}, index {index}"), known,
                                f"{file}, index {index}")  # fmt: skip
            known[index] = images
        except MGMError as error:
            images = error
        yield {name: value for name, value in row.items() if name != "image"}, images
    yield from (({}, fault) for fault in faults)


def _images_in(text: str, known: Mapping[str, tuple[bytes, ...]], where: str) -> tuple[bytes, ...]:
    """The images in a cell, or those of the row that it names.

    Raises:
        MGMError: there are none.
    """
    if text in known:
        return known[text]
    if len(text) < SHORTEST:
        raise MGMError(f"{where}: its image is that of {text!r}, which did not come yet")
    try:
        parts = ast.literal_eval(text) if text.startswith("[") else [text]
        return tuple(base64_image(part, where) for part in parts)
    except (SyntaxError, ValueError, TypeError) as error:
        raise MGMError(f"{where}: its images are no list of texts ({error})"[:300]) from error


@dataclass
class HubFiles(Source):
    """Parquet files of a data set of the Hugging Face hub, images within.

    Attributes:
        dataset: its name.
        pattern: of the files.
        size: rows.
        image: the column of the images.
        revision: commit or branch; None: the newest, which is written down when it is fetched.
    """

    dataset: str
    pattern: str
    size: int
    image: str = "image"
    revision: str | None = dataclass_field(default=None, repr=False)

    def files(self, folder: Path) -> list[Path]:
        """See `Source`."""
        return matching(folder, self.pattern)

    def read(self, folder: Path) -> Iterator[Packed]:
        """See `Source`."""
        for row in self.records(folder, self.pattern):
            try:
                yield row, images_of(row.pop(self.image, None), self.dataset)
            except MGMError as error:
                yield row, error

    def records(self, folder: Path, pattern: str) -> Iterator[dict[str, Any]]:
        """The rows of some of its files.

        Raises:
            MGMError: there is no such file, or it is damaged.
        """
        files = matching(folder, pattern)
        if not files:
            raise MissingFileError(folder / HUB_FOLDER / pattern, self.dataset)
        for file in files:
            yield from read_parquet(file)

    def needed(self) -> list[Needed]:
        """See `Source`."""
        source = f"the data set {self.dataset} of the Hugging Face hub"
        return [Needed(self.pattern, source, dataset=self.dataset, revision=self.revision)]


def matching(folder: Path, pattern: str) -> list[Path]:
    """Files of the hub in a benchmark's folder, in order."""
    return sorted((folder / HUB_FOLDER).glob(pattern))


def images_of(value: Any, where: str) -> tuple[bytes, ...]:
    """The images in a field of a parquet file, some in base64; none where it is empty.

    Raises:
        MGMError: there is something else.
    """
    values = value if isinstance(value, list) else [value] if value is not None else []
    contents = [one.get("bytes") if isinstance(one, dict) else one for one in values]
    contents = [base64_image(one, where) if isinstance(one, str) else one for one in contents]
    if not all(isinstance(one, bytes) for one in contents):
        raise MGMError(f"{where}: its image is not in the file")
    return tuple(contents)

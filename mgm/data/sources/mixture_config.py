"""Parses mixture files: JSON with several data sets and their sampling weights.

{"datasets": [{"path": "a.json", "image_folder": "images", "weight": 2}, {"path": "b.jsonl"},
              {"path": "owner/name", "config": "part", "split": "train", "name": "c"}]}
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgm.data.sources.file_kind import HEAD_BYTES, encoding_error
from mgm.data.sources.hf_table import is_hub_name
from mgm.data.sources.json.json_file import LINE_ENDINGS, MIXTURE_FORM
from mgm.data.sources.text_checks import text_fault
from mgm.errors import MGMError, one_line

# Objects without this key are records.
_BEGINNING = re.compile(rb'(?:\xef\xbb\xbf)?\s*\{\s*"datasets"\s*:')
SOURCE_KEYS = ("path", "image_folder", "weight", "name", "config", "split")


@dataclass(frozen=True)
class MixtureSource:
    """One data set of a mixture.

    Attributes:
        path: path or URL of the data file, or name of a data set on the hub.
        image_folder: folder that its image paths are relative to; None: that of the data file.
        weight: repetitions of each sample per epoch; the fractional part adds that share of the
            samples. For a stream: sampling weight, relative to those of the other sources.
        name: name in reports.
        config: configuration of a data set on the hub.
        split: split of a data set.
    """

    path: str
    image_folder: Path | None = None
    weight: float = 1.0
    name: str = ""
    config: str | None = None
    split: str = "train"


def read_mixture(file: Path) -> list[MixtureSource] | None:
    """Parse a mixture; paths are relative to its folder. None: the file is not a mixture.

    Raises:
        MGMError: names an invalid entry, and its valid values.
    """
    try:
        with file.open("rb") as content:
            head = content.read(HEAD_BYTES)
        if not _BEGINNING.match(head) or file.suffix in LINE_ENDINGS:
            return None
        values = json.loads(file.read_text(encoding="utf-8-sig"))
    except RecursionError as error:
        raise MGMError(f"{file}: is nested too deeply; a mixture is {MIXTURE_FORM}") from error
    except OSError:
        return None  # reported by the reader of samples
    except UnicodeDecodeError as error:
        raise MGMError(f"{file}: {encoding_error(error)}") from error
    except ValueError as error:
        raise MGMError(f"{file}: is not valid JSON ({one_line(error)}); fix the syntax") from error
    entries = values.get("datasets")
    if not isinstance(entries, list) or not entries or values.keys() != {"datasets"}:
        raise MGMError(
            f"{file}: is not a valid mixture; expected {MIXTURE_FORM} without other keys"
        )
    sources = [
        _source(entry, f"{file}: dataset {n}", file.parent) for n, entry in enumerate(entries)
    ]
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise MGMError(
                f"{file}: two datasets have the name {name!r}; give each a unique 'name'"
            )
    return sources


def _source(entry: Any, where: str, folder: Path) -> MixtureSource:
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        raise MGMError(
            f"{where}: has no path; expected an object with the keys "
            f"{', '.join(map(repr, SOURCE_KEYS))}, of which only 'path' is required"
        )
    if unknown := entry.keys() - set(SOURCE_KEYS):
        raise MGMError(
            f"{where}: unknown key {min(unknown)!r}; choose from {', '.join(SOURCE_KEYS)}"
        )
    entry = {key: value for key, value in entry.items() if value is not None}
    weight = entry.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < 1e6:
        raise MGMError(
            f"{where}: weight is {weight!r:.40}; expected a number above 0 and below 1,000,000"
        )
    for key in ("path", "image_folder", "config", "split", "name"):
        value = entry.get(key, "")
        if not isinstance(value, str):
            raise MGMError(f"{where}: {key} is {value!r:.40}; expected a string")
        if fault := text_fault(value):
            raise MGMError(f"{where}: {key} {fault}")
        if "\0" in value:
            raise MGMError(f"{where}: {key} contains a NUL character; remove it")
    path = entry["path"]
    try:
        exists = (folder / path).exists()
    except OSError as error:  # longer than paths may be
        raise MGMError(
            f"{where}: path {path!r:.80} cannot be read ({error.strerror}); fix the path"
        ) from error
    local = exists or not ("://" in path or is_hub_name(path))
    path = str(folder / path) if local else path
    name = entry.get("name", Path(path).stem or Path(path).resolve().name)
    if not name.strip():
        raise MGMError(f"{where}: name is {name!r}; expected a non-empty string")
    images = entry.get("image_folder")
    options = {key: entry[key] for key in ("config", "split") if key in entry}
    return MixtureSource(
        path, None if images is None else folder / images, float(weight), name, **options
    )

"""Fingerprint of training data: digests of its content, and the weights of a mixture."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np

from mgm.data.datasets.mixture import MixedDataset
from mgm.data.datasets.packing import PackedDataset
from mgm.data.datasets.streaming import StreamedDataset
from mgm.data.datasets.training_dataset import TrainingDataset
from mgm.data.sources.digest import digest_of
from mgm.data.sources.hf_table import BUILDERS, TableFile
from mgm.data.sources.shards import Shard, TableShard

IMAGES = 16  # samples of a data file whose images are hashed, evenly spaced

Items = TrainingDataset | MixedDataset | PackedDataset | StreamedDataset


def data_fingerprint(items: Items, flag: str) -> dict[str, Any]:
    """The fingerprint of a dataset: digests and weights, by the names used in errors.

    Args:
        items: the training or validation dataset.
        flag: the flag of its path.

    Returns:
        Values by name. A value with "sha256" is compared by that; its "path" is for reports.

    Raises:
        MGMError: a file can no longer be read.
    """
    if isinstance(items, PackedDataset):
        return data_fingerprint(items.dataset, flag)
    if isinstance(items, StreamedDataset):
        return _of_stream(items, flag)
    if isinstance(items, TrainingDataset):
        return _of_file(items, flag)
    fingerprint: dict[str, Any] = {f"parts of {flag}": len(items.parts)}
    for number, (part, source) in enumerate(zip(items.parts, items.sources, strict=True)):
        fingerprint |= _of_file(part, f"{flag} part {number}")
        fingerprint[f"weight of {flag} part {number}"] = source.weight
    return fingerprint


def _of_file(part: TrainingDataset, flag: str) -> dict[str, Any]:
    folder, samples = part.image_folder, part.samples
    if isinstance(samples, TableFile):
        files = _table_files(Path(samples.path))
        content = digest_of(files) if files else _digest_of_text(samples.fingerprint)
    else:
        content = digest_of([samples.file])
    fingerprint: dict[str, Any] = {flag: {"path": str(part.path), "sha256": content}}
    if files := list(_spread_images(part)):
        images = {"path": str(folder), "sha256": digest_of(files)}
        fingerprint[f"images of {flag}"] = images
    return fingerprint


def _spread_images(part: TrainingDataset) -> Iterator[Path]:
    """The image files of evenly spaced samples; missing files are left out."""
    rows = part.rows[part.image_counts > 0]
    chosen = np.linspace(0, len(rows) - 1, min(IMAGES, len(rows))).astype(int)
    for row in rows[chosen].tolist():
        for name in part.samples.index.image_names(row):
            if name is not None and (file := part.image_folder / name).is_file():
                yield file


def _table_files(path: Path) -> list[Path]:
    """The files of a table on the disk; empty: it is on the hub."""
    if path.is_dir():
        endings = {file.suffix for file in path.rglob("*")} & set(BUILDERS)
        return sorted(file for ending in endings for file in path.rglob(f"*{ending}"))
    return [path] if path.is_file() else []


def _of_stream(items: StreamedDataset, flag: str) -> dict[str, Any]:
    fingerprint: dict[str, Any] = {f"parts of {flag}": len(items.shards)}
    for number, (shards, source) in enumerate(zip(items.shards, items.sources, strict=True)):
        name = flag if len(items.shards) == 1 else f"{flag} part {number}"
        fingerprint[name] = {"path": source.path, "sha256": _digest_of_shards(shards, source.path)}
        fingerprint[f"shards of {name}"] = len(shards)
        fingerprint[f"weight of {name}"] = source.weight
    return fingerprint


def _digest_of_shards(shards: Sequence[Shard], path: str) -> str:
    """Digest of the content of local shards, or of the names of remote ones."""
    if isinstance(shards[0], TableShard):
        files = [file for name in sorted(glob(path)) for file in _table_files(Path(name))]  # noqa: PTH207
    else:
        files = [Path(shard.name) for shard in shards]
    if files and all(file.is_file() for file in files):
        return digest_of(files)
    return _digest_of_text(json.dumps([shard.name for shard in shards]))


def _digest_of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

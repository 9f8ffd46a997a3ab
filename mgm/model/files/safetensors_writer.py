"""Writes safetensors files and shards, with one tensor in memory at a time."""

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mgm.model.files.lazy_tensor import LazyTensor
from mgm.model.files.safetensors_header import SAFETENSORS_DTYPES

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
_DTYPE_NAMES = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}


def write_shards(
    folder: Path,
    tensors: Mapping[str, LazyTensor],
    max_shard_bytes: int,
    progress: Callable[[int], object] = lambda count: None,
) -> None:
    """Write weights as transformers does: one file, or shards with an index.

    Args:
        folder: folder to write to.
        tensors: tensors by name in the file.
        max_shard_bytes: maximum size of a file, unless a single tensor is larger.
        progress: called after every tensor with the bytes written.
    """
    shards = list(_shards(tensors, max_shard_bytes))
    weight_map = {}
    for number, names in enumerate(shards, start=1):
        file = SINGLE_FILE
        if len(shards) > 1:
            file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_file(folder / file, {name: tensors[name] for name in names}, progress=progress)
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        total = sum(tensor.nbytes for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _shards(tensors: Mapping[str, LazyTensor], limit: int) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, tensor in tensors.items():
        if names and size + tensor.nbytes > limit:
            yield names
            names, size = [], 0
        names.append(name)
        size += tensor.nbytes
    yield names


def write_file(
    file: Path,
    tensors: Mapping[str, LazyTensor],
    metadata: Mapping[str, str] | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> None:
    """Write one file deterministically: unlike the safetensors library, equal tensors, equal bytes.

    Args:
        file: path of the file to write.
        tensors: tensors by name in the file.
        metadata: added to the header.
        progress: called after every tensor with the bytes written.
    """
    # Wide dtypes first, as the safetensors library does, so that every tensor is aligned.
    order = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
    header: dict[str, object] = {"__metadata__": {"format": "pt"} | dict(metadata or {})}
    end = 0
    for name in order:
        tensor = tensors[name]
        begin, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            stream.write(tensors[name].read_bytes())
            progress(tensors[name].nbytes)

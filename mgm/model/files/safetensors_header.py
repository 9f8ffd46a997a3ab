"""Parses and validates the header of a safetensors file, before any tensor is read.

The format: 8 bytes with the header's length, the header in JSON, the tensors' bytes without gaps
(https://github.com/huggingface/safetensors#format).
"""

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeGuard

import torch

from mgm.errors import MGMError, one_line
from mgm.model.files.json_fields import is_name, is_text, shown
from mgm.model.files.json_file import check_readable

# Names of dtypes in the header.
SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
MAX_HEADER_BYTES = 100_000_000  # limit of the format
_LENGTH_BYTES = 8
_MAX_SIZE = 2**63 - 1  # torch's limit for a dimension, an offset and a number of elements
_MAX_DIMENSIONS = 64  # torch's limit
_METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor's entry in the header; `offset` is in bytes from the start of the file."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int


def read_safetensors_header(file: Path) -> list[StoredTensor]:
    """Read the header of a safetensors file: its tensors, in the order of the header.

    Raises:
        MGMError: the header is damaged, contradicts itself, or does not account for every byte of
            the file.
    """
    size = check_readable(file)
    entries, data = _parse(file, size)
    tensors, ranges = [], []
    for name, entry in entries.items():
        try:
            dtype, shape, begin, end = _check_entry(name, entry)
        except (TypeError, ValueError) as error:
            raise MGMError(f"{file}: {error}; copy the file again") from error
        tensors.append(StoredTensor(name, dtype, shape, data + begin))
        ranges.append((begin, end, name))
    _check_layout(file, ranges, size, data)
    return tensors


def _parse(file: Path, size: int) -> tuple[dict[str, Any], int]:
    """Parse the header, without its metadata; returns also the byte offset of the first tensor."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(_LENGTH_BYTES))
            if length > MAX_HEADER_BYTES:
                raise ValueError(f"its header has {length} bytes, the format allows 100 MB")
            if length > size - _LENGTH_BYTES:
                raise ValueError("its header is longer than the file")
            text = stream.read(length).decode("utf-8")
        header = json.loads(text, object_pairs_hook=_without_duplicates)
        if not isinstance(header, dict):
            raise TypeError(f"its header is {shown(header)}, not an object")
    except (struct.error, TypeError, ValueError, OSError, RecursionError) as error:
        raise MGMError(
            f"{file}: not a safetensors file or cut short at {size} bytes "
            f"({one_line(error)[:200]}); copy it again"
        ) from error
    metadata = header.pop(_METADATA, None)
    texts = isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())
    if metadata is not None and not texts:
        raise MGMError(
            f"{file}: {_METADATA} in its header is {shown(metadata)}; expected texts by name, "
            "copy the file again"
        )
    return header, _LENGTH_BYTES + length


def _without_duplicates(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"its header has {shown(name)} twice")
        result[name] = value
    return result


def _check_entry(name: str, entry: object) -> tuple[torch.dtype, tuple[int, ...], int, int]:
    """Dtype, shape and byte range of a tensor; raises a TypeError or ValueError if not valid."""
    if not is_name(name):
        raise ValueError(f"{shown(name)} is not a tensor name, it is too long or not text")
    if not isinstance(entry, dict):
        raise TypeError(f"{shown(name)} is {shown(entry)} in its header, not an object")
    kind, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    dtype = SAFETENSORS_DTYPES.get(kind) if isinstance(kind, str) else None
    if dtype is None:
        known = ", ".join(SAFETENSORS_DTYPES)
        text = kind if is_text(kind) and len(kind) <= 40 else shown(kind)
        raise ValueError(f"{name} is of type {text}; expected one of {known}")
    if not _are_sizes(shape) or prod(filter(None, shape)) > _MAX_SIZE:
        raise ValueError(f"{name} has shape {shown(shape)}; expected a list of integers from 0")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{name} has data_offsets {shown(offsets)}; expected [begin, end]")
    begin, end = offsets
    if end - begin != prod(shape) * dtype.itemsize:
        raise ValueError(
            f"{name} takes {end - begin} bytes, which is not what {kind} of shape "
            f"{shown(tuple(shape))} takes"
        )
    return dtype, tuple(shape), begin, end


def _are_sizes(values: object) -> TypeGuard[list[int]]:
    if not isinstance(values, list) or len(values) > _MAX_DIMENSIONS:
        return False
    return all(type(value) is int and 0 <= value <= _MAX_SIZE for value in values)


def _check_layout(file: Path, ranges: list[tuple[int, int, str]], size: int, data: int) -> None:
    """Check that the tensors fill the file without overlaps and gaps."""
    position = 0
    for begin, end, name in sorted(ranges):
        if begin != position:
            fault = "overlaps the one before it" if begin < position else "leaves a gap before it"
            raise MGMError(
                f"{file}: {name} {fault}: it begins at byte {begin}, expected {position}; copy "
                "the file again"
            )
        position = end
    expected = data + position
    if size < expected:
        raise MGMError(f"{file}: cut short, {size} bytes of {expected}; copy it again")
    if size > expected:
        raise MGMError(f"{file}: has {size} bytes, its header says {expected}; copy it again")

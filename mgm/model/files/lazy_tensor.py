"""Tensors in files, read one by one when they are asked for."""

import json
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from mgm.errors import MGMError

# Names of dtypes in the header of a safetensors file.
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

# What torch raises on files that hold no weights.
_UNREADABLE = (RuntimeError, EOFError, ValueError, AttributeError)


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that stays in its file until it is read.

    Attributes:
        name: in the file.
        file: where it lies, for messages.
        shape: known without reading.
        dtype: known without reading.
        read: gives the tensor, in memory of its own.
    """

    name: str
    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def read_bytes(self) -> memoryview:
        """Its values, row by row, as they lie in memory."""
        return memoryview(self.read().contiguous().flatten().view(torch.uint8).numpy())

    def __getitem__(self, index: EllipsisType) -> Tensor:
        """What transformers' loader asks for when a tensor's turn has come: all of it."""
        return self.read()[index]


def lazy_tensors(file: Path) -> dict[str, LazyTensor]:
    """The tensors of a safetensors file or of a PyTorch file, by their names there.

    Code in a PyTorch file is never run (`weights_only`).

    Raises:
        MGMError: the file is cut short, damaged or of another kind.
    """
    if not file.is_file():
        raise MGMError(f"{file}: no such file; copy it again")
    return _of_safetensors(file) if file.suffix == ".safetensors" else _of_torch(file)


def _of_safetensors(file: Path) -> dict[str, LazyTensor]:
    header, start = _safetensors_header(file)
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype = SAFETENSORS_DTYPES.get(entry["dtype"])
        if dtype is None:
            raise MGMError(
                f"{file}: {name} is of type {entry['dtype']}; expected one of "
                f"{', '.join(SAFETENSORS_DTYPES)}"
            )
        shape = tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        if end - begin != torch.Size(shape).numel() * dtype.itemsize:
            raise MGMError(
                f"{file}: {name} takes {end - begin} bytes, which is not what {entry['dtype']} of "
                f"shape {shape} takes; copy the file again"
            )
        tensors[name] = _stored(name, file, shape, dtype, start + begin)
    return tensors


def _safetensors_header(file: Path) -> tuple[dict[str, Any], int]:
    """The header, and where the tensors begin, after checking that the file is as long as it says.

    The format: 8 bytes with the header's length, the header in JSON, the tensors' bytes.
    """
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > size:
                raise ValueError("its header is longer than the file")
            header = json.loads(stream.read(length))
        ends = [
            entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"
        ]
        expected = 8 + length + max(ends, default=0)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise MGMError(
            f"{file}: not a safetensors file or cut short at {size} bytes ({error}); copy it again"
        ) from error
    if size < expected:
        raise MGMError(f"{file}: cut short, {size} bytes of {expected}; copy it again")
    return header, 8 + length


def _stored(
    name: str, file: Path, shape: tuple[int, ...], dtype: torch.dtype, offset: int
) -> LazyTensor:
    """A tensor whose bytes lie together, `offset` bytes from the beginning of the file."""

    def read() -> Tensor:
        tensor = torch.empty(shape, dtype=dtype)
        if tensor.numel():
            place = memoryview(tensor.flatten().view(torch.uint8).numpy())
            with file.open("rb", buffering=0) as stream:
                stream.seek(offset)
                done = 0
                while done < len(place):  # the system may give less than was asked for
                    count = stream.readinto(place[done:])
                    if not count:
                        raise MGMError(f"{file}: cut short while it was read; copy it again")
                    done += count
        return tensor

    return LazyTensor(name, file, shape, dtype, read)


def _of_torch(file: Path) -> dict[str, LazyTensor]:
    # Fake tensors know where in the file their bytes are, and take no memory.
    with FakeTensorMode():
        found = _load(file, mmap=False)
    tensors = {}
    in_memory: dict[str, Tensor] | None = None
    for name, tensor in found.items():
        shape = tuple(tensor.shape)
        offset = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
        if offset is not None and tensor.is_contiguous():
            offset += tensor.storage_offset() * tensor.element_size()
            tensors[name] = _stored(name, file, shape, tensor.dtype, offset)
            continue
        # Files from before PyTorch 1.6, and transposed tensors, have to be read by PyTorch.
        if in_memory is None:
            in_memory = _load(file, mmap=offset is not None)
        whole = in_memory[name]
        tensors[name] = LazyTensor(name, file, shape, whole.dtype, whole.contiguous)
    return tensors


def _load(file: Path, mmap: bool) -> dict[str, Tensor]:
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
        weights = weights.get("state_dict", weights)
        tensors = {name: tensor for name, tensor in weights.items() if isinstance(tensor, Tensor)}
    except pickle.UnpicklingError as error:
        # Without torch's own text, which advises to run code that a foreign file may hold.
        raise MGMError(
            f"{file}: cannot be read as weights: it is damaged, or holds other objects than "
            "tensors, whose code is not run; copy it again, or get it as safetensors"
        ) from error
    except _UNREADABLE as error:
        raise MGMError(
            f"{file}: cannot be read as weights ({type(error).__name__}); copy it again"
        ) from error
    if weights and not tensors:
        raise MGMError(f"{file}: holds no tensors; copy it again, or give another checkpoint")
    return tensors

"""`LazyTensor`: shape and dtype of a tensor in a weight file, whose values are read on demand."""

import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from mgm.errors import MGMError
from mgm.model.files.json_fields import is_name, shown
from mgm.model.files.json_file import check_readable
from mgm.model.files.safetensors_header import read_safetensors_header

# Offset, in a zip record's local header, of the lengths of its name and extra field; its content
# follows those.
_ZIP_LENGTHS = 26


@dataclass(frozen=True)
class LazyTensor:
    """A tensor in a weight file, not read yet.

    Attributes:
        name: its name in the file.
        file: path of the file, for messages.
        shape: known without reading the values.
        dtype: known without reading the values.
        read: reads the tensor into new memory.
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
        """Its values in row-major order, as bytes."""
        return memoryview(self.read().contiguous().flatten().view(torch.uint8).numpy())

    def __getitem__(self, index: EllipsisType) -> Tensor:
        """Read the whole tensor: transformers' loader indexes it with `...`."""
        return self.read()[index]


def lazy_tensors(file: Path) -> dict[str, LazyTensor]:
    """List the tensors of a safetensors or PyTorch file by name, without reading their values.

    Code in a PyTorch file is never run (`weights_only`).

    Raises:
        MGMError: the file is cut short, damaged or of another kind.
    """
    check_readable(file)
    return _of_safetensors(file) if file.suffix == ".safetensors" else _of_torch(file)


def _of_safetensors(file: Path) -> dict[str, LazyTensor]:
    return {
        tensor.name: _stored(tensor.name, file, tensor.shape, tensor.dtype, tensor.offset)
        for tensor in read_safetensors_header(file)
    }


def _stored(
    name: str, file: Path, shape: tuple[int, ...], dtype: torch.dtype, offset: int
) -> LazyTensor:
    """A contiguous tensor at a byte offset in a file."""

    def read() -> Tensor:
        tensor = torch.empty(shape, dtype=dtype)
        if tensor.numel():
            buffer = memoryview(tensor.flatten().view(torch.uint8).numpy())
            with file.open("rb", buffering=0) as stream:
                stream.seek(offset)
                done = 0
                while done < len(buffer):  # a read may return fewer bytes than requested
                    count = stream.readinto(buffer[done:])
                    if not count:
                        raise MGMError(f"{file}: cut short while it was read; copy it again")
                    done += count
        return tensor

    return LazyTensor(name, file, shape, dtype, read)


def _of_torch(file: Path) -> dict[str, LazyTensor]:
    records = _records(file)
    # Fake tensors have the offsets of their bytes in the file, and take no memory.
    with FakeTensorMode():
        fake_tensors = _load(file, mmap=False)
    tensors = {}
    in_memory: dict[str, Tensor] | None = None
    for name, tensor in fake_tensors.items():
        shape = tuple(tensor.shape)
        storage = tensor.untyped_storage()
        offset = getattr(storage, "_checkpoint_offset", None)
        if records and records.get(offset) != storage.nbytes():
            raise MGMError(
                f"{file}: {name} takes {storage.nbytes()} bytes, and the file has "
                f"{records.get(offset, 0)} of it where PyTorch puts it; copy it again"
            )
        if offset is not None and tensor.is_contiguous():
            offset += tensor.storage_offset() * tensor.element_size()
            tensors[name] = _stored(name, file, shape, tensor.dtype, offset)
            continue
        # Transposed tensors, and files from before PyTorch 1.6, are read by PyTorch.
        if in_memory is None:
            in_memory = _load(file, mmap=offset is not None)
        loaded = in_memory[name]
        if loaded.is_meta:
            raise _not_plain(file, name)
        tensors[name] = LazyTensor(name, file, shape, loaded.dtype, loaded.contiguous)
    return tensors


def _records(file: Path) -> dict[int, int]:
    """Sizes of a zip file's records, by offset; empty if it is not a zip file.

    Tensors are read from these offsets; sizes in the pickle are not trusted.

    Raises:
        MGMError: the file is damaged, or a record is compressed.
    """
    if not zipfile.is_zipfile(file):
        return {}  # from before PyTorch 1.6, or no weights at all
    records = {}
    try:
        with zipfile.ZipFile(file) as archive, file.open("rb") as stream:
            for info in archive.infolist():
                if info.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"{info.filename} is compressed")
                stream.seek(info.header_offset + _ZIP_LENGTHS)
                name_length, extra_length = struct.unpack("<HH", stream.read(4))
                begin = info.header_offset + _ZIP_LENGTHS + 4 + name_length + extra_length
                records[begin] = info.file_size
    except (zipfile.BadZipFile, struct.error, ValueError, OSError, NotImplementedError) as error:
        raise _unreadable(file, error) from error
    return records


def _load(file: Path, mmap: bool) -> dict[str, Tensor]:
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        # Without torch's message, which advises to run code from the file.
        raise MGMError(
            f"{file}: cannot be read as weights: it is damaged, or has other objects than "
            "tensors, whose code is not run; copy it again, or get it as safetensors"
        ) from error
    except Exception as error:  # a damaged pickle can raise any exception
        raise _unreadable(file, error) from error
    for _ in range(2):
        if not isinstance(weights, Mapping):
            raise MGMError(
                f"{file}: cannot be read as weights: it contains a {type(weights).__name__} "
                "instead of tensors by name; copy it again"
            )
        weights = weights.get("state_dict", weights)
    tensors = {name: tensor for name, tensor in weights.items() if isinstance(tensor, Tensor)}
    if weights and not tensors:
        raise MGMError(f"{file}: has no tensors; copy it again, or give another checkpoint")
    size = file.stat().st_size
    for name, tensor in tensors.items():
        _check_tensor(file, size, name, tensor)
    return tensors


def _check_tensor(file: Path, size: int, name: object, tensor: Tensor) -> None:
    """Check for a dense tensor whose shape and strides stay within its storage and file size."""
    if not is_name(name):
        raise MGMError(f"{file}: {shown(name)} is not a tensor name; copy it again")
    if tensor.is_nested or tensor.layout != torch.strided or tensor.is_quantized:
        raise _not_plain(file, name)
    nbytes = tensor.numel() * tensor.element_size()
    if nbytes > size:
        raise MGMError(
            f"{file}: {name} of shape {tuple(tensor.shape)} takes {nbytes} bytes, the whole file "
            f"has {size}; copy it again"
        )
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    end = (tensor.storage_offset() + last + 1) * tensor.element_size()
    if nbytes and end > tensor.untyped_storage().nbytes():
        raise MGMError(
            f"{file}: {name} of shape {tuple(tensor.shape)} reaches beyond its own values; copy it "
            "again"
        )


def _not_plain(file: Path, name: object) -> MGMError:
    return MGMError(
        f"{file}: {name} is sparse, nested, quantised or without values; expected plain tensors, "
        "copy it again from the original model"
    )


def _unreadable(file: Path, error: Exception) -> MGMError:
    return MGMError(f"{file}: cannot be read as weights ({type(error).__name__}); copy it again")

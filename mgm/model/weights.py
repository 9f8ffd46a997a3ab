"""Weights on disk: reading one file or many, and filling a module with nothing left over."""

import json
import math
import os
import pickle
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mgm.errors import MGMError
from mgm.model.config_file import read_json

INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE_FILES = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)


# What safetensors and torch raise on files that hold no weights.
_UNREADABLE = (
    SafetensorError,
    RuntimeError,
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    AttributeError,
)


def weight_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The files that hold a folder's weights: those an index names, or the single one.

    Raises:
        MGMError: no weights, an index that names missing files, or one that is not an index.
    """
    folder = Path(folder)
    for name in INDEX_FILES:
        index = folder / name
        if index.is_file():
            return _indexed_files(index)
    for name in SINGLE_FILES:
        if (folder / name).is_file():
            return [folder / name]
    raise MGMError(
        f"{folder}: holds no weights; give a folder with one of "
        f"{', '.join((*INDEX_FILES, *SINGLE_FILES))}"
    )


def _indexed_files(index: Path) -> list[Path]:
    content = read_json(index)
    try:
        files = [index.parent / name for name in sorted(set(content["weight_map"].values()))]
    except (KeyError, AttributeError, TypeError) as error:
        raise MGMError(
            f"{index}: not an index of weights ({type(error).__name__}: {error}); copy it again"
        ) from error
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise MGMError(
            f"{index}: {len(missing)} of {len(files)} are missing, first {missing[0]}; copy them"
        )
    return files


def weight_shapes(folder: str | os.PathLike[str]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a folder's weights; of safetensors only the headers are read.

    Raises:
        MGMError: no weights, or a file that is truncated or not what its name says.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(folder):
        if file.suffix == ".safetensors":
            header = safetensors_header(file)
            shapes |= {
                name: tuple(entry["shape"])
                for name, entry in header.items()
                if name != "__metadata__"
            }
        else:
            shapes |= {
                name: tuple(tensor.shape) for name, tensor in read_file(file, mmap=True).items()
            }
    return shapes


def safetensors_header(file: Path) -> dict[str, dict]:
    """The header of a safetensors file, after checking that the file is as long as it says.

    Raises:
        MGMError: the file is truncated, or no safetensors file.
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
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MGMError(
            f"{file}: not a safetensors file or cut short at {size} bytes ({error}); copy it again"
        ) from error
    expected = 8 + length + max(ends, default=0)
    if size < expected:
        raise MGMError(f"{file}: cut short, {size} bytes of {expected}; copy it again")
    return header


def read_file(file: Path, mmap: bool = False) -> dict[str, Tensor]:
    """The tensors of one safetensors or PyTorch file, on the CPU.

    Raises:
        MGMError: the file is truncated or of another kind.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        weights = torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
        weights = weights.get("state_dict", weights)
        return {name: tensor for name, tensor in weights.items() if isinstance(tensor, Tensor)}
    except _UNREADABLE as error:
        # Without torch's own text, which advises to run code that a foreign file may hold.
        raise MGMError(
            f"{file}: cannot be read as weights ({type(error).__name__}); copy it again"
        ) from error


def read_weights(folder: str | os.PathLike[str]) -> dict[str, Tensor]:
    """All tensors of a folder, on the CPU."""
    weights: dict[str, Tensor] = {}
    for file in weight_files(folder):
        weights |= read_file(file)
    return weights


def load_into(
    module: nn.Module, weights: Mapping[str, Tensor], source: str, ignore: Iterable[str] = ()
) -> None:
    """Copy weights into a module; every parameter is filled, and nothing is left over but `ignore`.

    Args:
        module: what is filled.
        weights: by the module's own names.
        source: where they come from, for the error.
        ignore: prefixes of names that may be left over.

    Raises:
        MGMError: names are missing or left over, or shapes differ.
    """
    expected = module.state_dict()
    ignore = (*ignore, "embeddings.position_ids")
    found = {name: tensor for name, tensor in weights.items() if not name.startswith(tuple(ignore))}
    check_names(expected, found, source)
    for name, tensor in expected.items():
        if tensor.shape != found[name].shape:
            shape = tuple(found[name].shape)
            raise MGMError(
                f"{source}: {name} has shape {shape}, not {tuple(tensor.shape)}; "
                "give weights and settings of one model"
            )
    module.load_state_dict(found)


def check_fit(model: nn.Module, shapes: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Refuse weights that leave much of a model unfilled, before it takes memory.

    Names that transformers converts while it loads (the experts of Mixtral) are in one of the two
    alone; they are taken for the same as long as there are enough of them.

    Args:
        model: on the meta device.
        shapes: of the weights, by the model's own names.
        source: where they come from, for the error.

    Raises:
        MGMError: a shape differs, or the model has more weights than there are.
    """
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for name, shape in expected.items():
        if shapes.get(name, shape) != shape:
            raise MGMError(
                f"{source}: {name} has shape {shapes[name]}, by config.json {shape}; "
                "copy both from one model"
            )
    lacking = sum(math.prod(expected[name]) for name in expected.keys() - shapes.keys())
    spare = sum(math.prod(shapes[name]) for name in shapes.keys() - expected.keys())
    if lacking > spare:
        check_names(expected, shapes, source)


def check_names(expected: Iterable[str], found: Iterable[str], source: str) -> None:
    """Raise an MGMError that lists the first missing and the first unexpected names, if any."""
    expected, found = set(expected), set(found)
    faults = [
        f"{len(names)} {kind} ({', '.join(sorted(names)[:3])}{', …' if len(names) > 3 else ''})"
        for kind, names in (("missing", expected - found), ("unexpected", found - expected))
        if names
    ]
    if faults:
        listed = " and ".join(faults)
        raise MGMError(f"{source}: weights do not fit the model: {listed}; use a complete one")

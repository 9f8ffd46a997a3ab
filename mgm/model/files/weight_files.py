"""Reads weight files, single or sharded, and checks them against a module's parameters."""

import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor, nn

from mgm.errors import MGMError
from mgm.model.files.json_fields import is_name, shown
from mgm.model.files.json_file import is_present, read_json
from mgm.model.files.lazy_tensor import LazyTensor, lazy_tensors

WEIGHT_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE_FILES = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)


def has_weights(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder has a weight file or an index of shards."""
    return any(is_present(Path(folder) / name) for name in (*INDEX_FILES, *SINGLE_FILES))


def weight_files(folder: str | os.PathLike[str]) -> tuple[dict[str, str], list[Path]]:
    """Find a folder's weight files, and the index of its shards: file by tensor name.

    The index is empty for a single file.

    Raises:
        MGMError: there are no weights, or the index is not valid or names files that are missing or
            in another folder.
    """
    folder = Path(folder)
    for name in INDEX_FILES:
        index = folder / name
        if is_present(index):
            return _indexed_files(index)
    for name in SINGLE_FILES:
        if is_present(folder / name):
            return {}, [folder / name]
    raise MGMError(
        f"{folder}: has no weights; give a folder with one of "
        f"{', '.join((*INDEX_FILES, *SINGLE_FILES))}"
    )


def _indexed_files(index: Path) -> tuple[dict[str, str], list[Path]]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise MGMError(
            f"{index}: not an index of weights (weight_map is {shown(weight_map)}); copy it again"
        )
    for name, file in weight_map.items():
        if not is_name(name) or not _is_shard_name(file):
            raise MGMError(
                f"{index}: says that {shown(name)} is in {shown(file)}; expected the name of a "
                "file of weights beside it, copy it again"
            )
    files = [index.parent / name for name in sorted(set(weight_map.values()))]
    missing = [file.name for file in files if not is_present(file)]
    if missing:
        raise MGMError(
            f"{index}: {len(missing)} of {len(files)} are missing, first {missing[0]}; copy them"
        )
    return weight_map, files


def _is_shard_name(name: object) -> TypeGuard[str]:
    """Whether this is a file name without a folder."""
    if not is_name(name) or Path(name).name != name or "\\" in name or "\0" in name:
        return False
    return Path(name).suffix in (".safetensors", ".bin")


def read_folder(folder: str | os.PathLike[str]) -> dict[str, LazyTensor]:
    """List the tensors of a folder by name, in the order of its files, without reading them.

    Raises:
        MGMError: no weights, missing or damaged files, a tensor in two files, or an index that
            names tensors that its files do not hold.
    """
    folder = Path(folder)
    index, files = weight_files(folder)
    tensors: dict[str, LazyTensor] = {}
    for file in files:
        for name, tensor in lazy_tensors(file).items():
            if name in tensors:
                raise MGMError(
                    f"{file}: has {name}, which is in {tensors[name].file.name} too; "
                    "copy the folder again, from one model"
                )
            tensors[name] = tensor
    lacking = [name for name in index if name not in tensors]
    if lacking:
        raise MGMError(
            f"{folder / index[lacking[0]]}: lacks {lacking[0]}, which the index says is in it "
            f"({len(lacking)} such); copy the folder again, from one model"
        )
    for name, file in index.items():
        if tensors[name].file.name != file:
            raise MGMError(
                f"{tensors[name].file}: has {name}, which the index says is in {file}; copy the "
                "folder again, from one model"
            )
    return tensors


def read_weights(folder: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read all tensors of a folder, on the CPU."""
    return {name: tensor.read() for name, tensor in read_folder(folder).items()}


def read_file(file: Path) -> dict[str, Tensor]:
    """Read all tensors of one safetensors or PyTorch file, on the CPU."""
    return {name: tensor.read() for name, tensor in lazy_tensors(file).items()}


def load_into(
    module: nn.Module, weights: Mapping[str, Tensor], source: str, ignore: Iterable[str] = ()
) -> None:
    """Load weights into a module, strictly, except for unexpected names in `ignore`.

    Args:
        module: changed in place.
        weights: weights by the module's own names.
        source: where they come from, for the error.
        ignore: prefixes of unexpected names to skip.

    Raises:
        MGMError: names are missing or unexpected, or shapes differ.
    """
    expected = module.state_dict()
    ignore = (*ignore, "embeddings.position_ids")
    taken = {name: tensor for name, tensor in weights.items() if not name.startswith(tuple(ignore))}
    check_weight_names(expected, taken, source)
    for name, tensor in expected.items():
        if tensor.shape != taken[name].shape:
            shape = tuple(taken[name].shape)
            raise MGMError(
                f"{source}: {name} has shape {shape}, not {tuple(tensor.shape)}; "
                "give weights and settings of one model"
            )
    module.load_state_dict(taken)


def check_fit(
    model: nn.Module,
    tensors: Mapping[str, LazyTensor],
    stored_name: Callable[[str], str] = str,
) -> None:
    """Check weights against a model on the meta device, before memory is allocated.

    Names that transformers converts while loading are on one side only; those weights are compared
    by their total size.

    Args:
        model: model on the meta device.
        tensors: tensors by the model's own names.
        stored_name: maps a weight's name in the model to that in the files.

    Raises:
        MGMError: a shape or dtype does not fit, or weights are missing.
    """
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for name, tensor in tensors.items():
        if expected.get(name, tensor.shape) != tensor.shape:
            raise MGMError(
                f"{tensor.file}: {tensor.name} has shape {tensor.shape}, by config.json "
                f"{expected[name]}; copy both from one model"
            )
        weight = name in expected or name.endswith(".weight")
        if weight and tensor.dtype not in WEIGHT_DTYPES:
            raise MGMError(
                f"{tensor.file}: {tensor.name} is of {tensor.dtype}; expected float32, bfloat16 or "
                "float16, copy it again from the original model"
            )
    lacking = sum(math.prod(expected[name]) for name in expected.keys() - tensors.keys())
    spare = sum(math.prod(tensors[name].shape) for name in tensors.keys() - expected.keys())
    if lacking > spare:
        check_weight_names(expected, tensors, source_of(tensors), stored_name)


def source_of(tensors: Mapping[str, LazyTensor]) -> str:
    """The files of tensors for messages: the first, and how many more."""
    first, *others = dict.fromkeys(tensor.file for tensor in tensors.values())
    return f"{first} and {len(others)} more" if others else str(first)


def check_weight_names(
    expected: Iterable[str],
    given: Iterable[str],
    source: str,
    stored_name: Callable[[str], str] = str,
) -> None:
    """Raise an MGMError that lists the first missing and the first unexpected names, if any."""
    expected, given = set(map(stored_name, expected)), set(map(stored_name, given))
    faults = [
        f"{len(names)} {kind} ({', '.join(sorted(names)[:3])}{', …' if len(names) > 3 else ''})"
        for kind, names in (("missing", expected - given), ("unexpected", given - expected))
        if names
    ]
    if faults:
        listed = " and ".join(faults)
        raise MGMError(f"{source}: weights do not fit the model: {listed}; use a complete one")

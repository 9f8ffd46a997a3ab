"""Base models of adapter and stage-1 folders, which may be adapter folders themselves.

A folder names its base: `base_model_name_or_path` in adapter_config.json, or `_name_or_path` in
config.json. Adapters that were trained on adapters form a chain that ends in a whole model.
"""

import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from mgm.errors import MGMError
from mgm.model.checkpoint.saved_files import (
    ADAPTER_CONFIG,
    ADAPTER_FILES,
    CONFIG_FILE,
    STAGE1_FILE,
)
from mgm.model.files.hub import checkpoint_folder
from mgm.model.files.json_fields import shown
from mgm.model.files.json_file import check_readable, config_errors, is_present, read_json
from mgm.model.files.weight_files import has_weights
from mgm.model.published_layout.config_fields import find_referenced_folder

# Key in the metadata of adapter_model.safetensors: the base, where that is an adapter itself.
BASE_ADAPTER = "base_adapter"


class MissingBaseError(MGMError):
    """A base model is missing, or its weights have changed.

    Attributes:
        fault: the message without the remedy, since each program has its own flag.
    """

    def __init__(
        self, fault: str, remedy: str = "give its folder (base=..., --model-base ...)"
    ) -> None:
        super().__init__(f"{fault}; {remedy}")
        self.fault = fault


def is_adapter_checkpoint(folder: Path) -> bool:
    """Whether a folder needs a base model: it has only a LoRA, or the projector of stage 1."""
    stage1 = is_present(folder / STAGE1_FILE) and not has_weights(folder)
    return stage1 or is_present(folder / ADAPTER_CONFIG)


def base_folders(folder: Path, base: str | os.PathLike[str] | None = None) -> list[Path]:
    """Find the chain of base models of a folder, the whole model last; empty if it is whole.

    Args:
        folder: folder of an adapter, of stage 1, or of a whole model.
        base: replaces the first base that is missing; if none is, the first in the chain, unless
            it is already in the chain. Only an adapter can replace an adapter.

    Raises:
        MissingBaseError: a base is missing; names the folder that needs it.
        MGMError: the base models form a loop, or `base` would leave out an adapter.
    """
    given = None if base is None else checkpoint_folder(base)
    chain, replaced = [folder], False
    while is_adapter_checkpoint(chain[-1]):
        next_base = referenced_base(chain[-1])
        if next_base is None and given is not None and not replaced:
            _check_whole_adapter(chain[-1], given)
            next_base, replaced = given, True
        if next_base is None:
            raise MissingBaseError(
                f"{chain[-1]}: needs its base model ({shown(base_name(chain[-1]))} by its config), "
                "which is not there"
            )
        chain.append(next_base)
        if next_base.resolve() in {path.resolve() for path in chain[:-1]}:
            loop = " on ".join(map(str, chain))
            raise MGMError(
                f"{folder}: its base models form a loop ({loop}); correct "
                f"base_model_name_or_path in {chain[-2] / ADAPTER_CONFIG}"
            )
    below = chain[1:]
    if given is None or replaced or given.resolve() in {path.resolve() for path in below}:
        return below
    if is_adapter_checkpoint(below[0]) and not is_adapter_checkpoint(given):
        raise MGMError(
            f"{folder}: was trained on {below[0]}, which needs a base model itself, and {given} is "
            "neither of them; leave out the base model"
        )
    return [given, *base_folders(given)]


def base_name(folder: Path) -> object:
    """The name of the base model in the config of an adapter's folder."""
    return _base_entry(folder)[0]


def _base_entry(folder: Path) -> tuple[Any, Path]:
    """The name of the base model, and the file that it is in."""
    if is_present(folder / ADAPTER_CONFIG):
        name = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
        if name:
            return name, folder / ADAPTER_CONFIG
    return read_json(folder / CONFIG_FILE).get("_name_or_path"), folder / CONFIG_FILE


def referenced_base(folder: Path) -> Path | None:
    """The folder that an adapter names as its base, or None if it does not exist."""
    name, file = _base_entry(folder)
    with config_errors(file):
        base = find_referenced_folder(name, folder, CONFIG_FILE)
    is_itself = base is not None and base.resolve() == folder.resolve()
    return None if is_itself else base


def _check_whole_adapter(folder: Path, base: Path) -> None:
    """Refuse a whole model as the base of an adapter that was trained on an adapter."""
    name = base_name(folder)
    adapter = stored_metadata(folder).get(BASE_ADAPTER)
    if is_adapter_checkpoint(base) or adapter is None or adapter != name:
        return
    raise MGMError(
        f"{folder}: was trained on the adapter {shown(name)}, which is not there, and {base} is a "
        f"whole model; give the adapter's folder, or, if {base} has it merged, name it in "
        f"base_model_name_or_path of {folder / ADAPTER_CONFIG} too"
    )


def stored_metadata(folder: Path) -> dict[str, str]:
    """Metadata of an adapter's safetensors file; empty where there is no such file.

    Raises:
        MGMError: the file cannot be read.
    """
    file = folder / ADAPTER_FILES[0]
    if not is_present(file):
        return {}
    check_readable(file)
    try:
        with safe_open(file, framework="pt") as stored:
            return stored.metadata() or {}
    except (OSError, SafetensorError):
        return {}  # the error is raised when the weights are read

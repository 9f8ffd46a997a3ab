"""Load a model from a folder in the native or the published layout, and save one."""

import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from mgm.atomic import atomic_folder
from mgm.errors import MGMError, one_line
from mgm.model.families import TEXT_TYPE_OF_PUBLISHED
from mgm.model.mgm import MGMForConditionalGeneration
from mgm.model.weights import check_names, weight_files, weight_shapes

CONFIG_FILE = "config.json"


def load_model(
    path: str | os.PathLike[str],
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
) -> MGMForConditionalGeneration:
    """The model of a folder, in evaluation mode; config.json and weight names decide what it is.

    Args:
        path: a folder in the native or in the published layout, or a repository id of the Hugging
            Face hub, which is downloaded.
        dtype: of the weights; None: as they were saved.
        device: where they go; None: the CPU.

    Raises:
        MGMError: the folder is missing, incomplete, damaged or holds another kind of model.
    """
    folder = checkpoint_folder(path)
    check_checkpoint(folder)
    with _quiet_transformers():
        try:
            loaded: Any = MGMForConditionalGeneration.from_pretrained(
                folder,
                dtype=dtype or "auto",
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # the report lists them
            )
        except (RuntimeError, SafetensorError) as error:
            raise MGMError(
                f"{folder}: weights do not fit config.json ({one_line(error)})"
            ) from error
    model, report = loaded
    for name, found, expected in sorted(report["mismatched_keys"]):
        raise MGMError(
            f"{folder}: {name} has shape {tuple(found)}; config.json makes it {tuple(expected)}"
        )
    check_names(report["missing_keys"], report["unexpected_keys"], str(folder))
    return model if device is None else model.to(device)


def save_model(
    model: MGMForConditionalGeneration, path: str | os.PathLike[str], max_shard_size: str = "5GB"
) -> None:
    """Save in the native layout; the folder appears when it is complete.

    Raises:
        MGMError: it could not be written.
    """
    with atomic_folder(path) as part, _quiet_transformers():
        model.save_pretrained(part, max_shard_size=max_shard_size)


def checkpoint_folder(path: str | os.PathLike[str]) -> Path:
    """The local folder of `path`: itself, or the download of a repository id.

    Raises:
        MGMError: no such folder, and no repository id that can be downloaded.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    # "playground/mgm-nano" has the form of a repository id, but where there is a playground it is a
    # folder that is missing, and no download.
    if not _is_repository_id(str(path)) or folder.parent.is_dir():
        raise MGMError(f"{path}: no such folder; give a folder that holds config.json and weights")
    # Imported here: most runs download nothing.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(path)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise MGMError(
            f"{path}: no such folder, and no download from the hub ({type(error).__name__}); "
            "check the name and the connection, or give a local folder"
        ) from error


def check_checkpoint(folder: Path) -> None:
    """Raise an MGMError unless the folder looks like a complete Mini-Gemini."""
    config_path = folder / CONFIG_FILE
    if not config_path.is_file():
        raise MGMError(f"{folder}: holds no {CONFIG_FILE}; give a checkpoint folder")
    try:
        values = json.loads(config_path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MGMError(f"{config_path}: not JSON ({one_line(error)}); copy it again") from error
    found = values.get("model_type") if isinstance(values, dict) else None
    if found not in TEXT_TYPE_OF_PUBLISHED:
        raise MGMError(
            f"{config_path}: model_type is {found!r}; expected {', '.join(TEXT_TYPE_OF_PUBLISHED)}"
        )
    weight_files(folder)
    weight_shapes(folder)


def _is_repository_id(path: str) -> bool:
    parts = path.split("/")
    return len(parts) == 2 and all(parts) and not path.startswith((".", "/", "~"))


@contextmanager
def _quiet_transformers() -> Generator[None]:
    """Without the library's own reports and bars: what matters is raised as an MGMError."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()

"""Load a model from a folder in the native or the published layout, and save one."""

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
from mgm.model.config import MGMConfig
from mgm.model.config_file import named_faults, read_json
from mgm.model.families import TEXT_TYPE_OF_PUBLISHED
from mgm.model.mgm import MGMForConditionalGeneration
from mgm.model.published import to_native
from mgm.model.weights import check_fit, weight_files, weight_shapes

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
        _check_weights(folder)
        try:
            model = MGMForConditionalGeneration.from_pretrained(folder, dtype=dtype or "auto")
        except (RuntimeError, SafetensorError) as error:
            raise MGMError(
                f"{folder}: weights do not fit config.json ({one_line(error)}); copy both from "
                "one model"
            ) from error
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


def checkpoint_folder(
    path: str | os.PathLike[str], files: list[str] | None = None, **where: Any
) -> Path:
    """The local folder of `path`: itself, or the download of a repository id.

    Args:
        files: patterns of those that are downloaded; None: all.
        **where: as for `huggingface_hub.snapshot_download`: revision, cache_dir, token and so on.

    Raises:
        MGMError: no such folder, and no repository id that can be downloaded.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise MGMError(f"{path}: is a file; give the folder that holds config.json and weights")
    # "playground/mgm-nano" has the form of a repository id, but where there is a playground it is a
    # folder that is missing, and no download.
    if not _is_repository_id(str(path)) or folder.parent.is_dir():
        raise MGMError(f"{path}: no such folder; give a folder that holds config.json and weights")
    # Imported here: most runs download nothing.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(path), allow_patterns=files, **where))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise MGMError(
            f"{path}: no such folder, and no download from the hub ({type(error).__name__}: "
            f"{one_line(error)[:200]}); check the name and the connection, or give a local folder"
        ) from error


def check_checkpoint(folder: Path) -> None:
    """Raise an MGMError unless the folder looks like a complete Mini-Gemini."""
    config_path = folder / CONFIG_FILE
    if not config_path.is_file():
        raise MGMError(f"{folder}: holds no {CONFIG_FILE}; give a checkpoint folder")
    found = read_json(config_path).get("model_type")
    if found not in list(TEXT_TYPE_OF_PUBLISHED):
        raise MGMError(
            f"{config_path}: model_type is {found!r}; give a folder with one of "
            f"{', '.join(TEXT_TYPE_OF_PUBLISHED)}"
        )
    weight_files(folder)
    weight_shapes(folder)


def _check_weights(folder: Path) -> None:
    """Raise an MGMError unless the weights are those of the model that config.json describes."""
    config = MGMConfig.from_pretrained(folder)
    with named_faults(folder / CONFIG_FILE), torch.device("meta"):
        model = MGMForConditionalGeneration(config)
    shapes = {to_native(name): shape for name, shape in weight_shapes(folder).items()}
    check_fit(model, shapes, str(folder))


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

"""Checks, by a SHA-256 digest, that a base model has the weights its adapter was trained on.

The digest is in the metadata of adapter_model.safetensors. Published adapters, and those of earlier
versions, have none.
"""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from mgm.errors import MGMError, one_line
from mgm.file_digest import file_digest
from mgm.model.checkpoint.base_models import (
    MissingBaseError,
    is_adapter_checkpoint,
    stored_metadata,
)
from mgm.model.checkpoint.saved_files import ADAPTER_FILES, NON_LORA_FILE, STAGE1_FILE
from mgm.model.files.json_file import check_readable, is_present
from mgm.model.files.weight_files import weight_files

logger = logging.getLogger(__name__)

BASE_DIGEST = "base_sha256"  # in the metadata, beside BASE_ADAPTER


def weights_digest(folders: Sequence[Path]) -> str:
    """SHA-256 of a model's weight files, independent of file names and configs.

    Of a file over 16 MiB, its size and blocks spread over it are hashed.

    Args:
        folders: the folder of the model, then its bases as `base_folders` returns them.

    Raises:
        MGMError: there are no weights, or they cannot be read.
    """
    folder, *bases = folders
    combined = hashlib.sha256()
    for file in _files(folder):
        check_readable(file)
        try:
            combined.update(file_digest(file))
        except OSError as error:
            raise MGMError(
                f"{file}: cannot be read ({one_line(error.strerror or error)}); copy it again"
            ) from error
    if bases and BASE_DIGEST not in stored_metadata(folder):  # else the metadata has it
        combined.update(weights_digest(bases).encode())
    return combined.hexdigest()


def check_base_weights(folders: Sequence[Path], given: bool) -> None:
    """Compare the base weights of each adapter with those that it was trained on.

    Args:
        folders: the folder of a model, then its bases as `base_folders` returns them.
        given: whether the user chose the base: then a difference is only a warning.

    Raises:
        MissingBaseError: a base has other weights: it was retrained, or is another model.
    """
    for number, folder in enumerate(folders[:-1]):
        digest, base = stored_metadata(folder).get(BASE_DIGEST), folders[number + 1]
        if digest is None or digest == weights_digest(folders[number + 1 :]):
            continue
        fault = f"{folder}: was trained on other weights than those in {base}, its base model"
        if not given:
            raise MissingBaseError(
                fault, "restore them, or give the folder that has them (base=..., --model-base ...)"
            )
        logger.warning("%s; they are used as they are", fault)


def _files(folder: Path) -> list[Path]:
    if not is_adapter_checkpoint(folder):
        return weight_files(folder)[1]
    names = (*ADAPTER_FILES, NON_LORA_FILE, STAGE1_FILE)
    return [folder / name for name in names if is_present(folder / name)]

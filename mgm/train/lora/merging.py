"""Merges a LoRA adapter into its base model."""

from pathlib import Path

from mgm.data.processing_mgm import MGMProcessor
from mgm.engine.engine import Engine
from mgm.errors import MGMError, prefix_errors
from mgm.model.checkpoint.base_digest import check_base_weights
from mgm.model.checkpoint.base_models import MissingBaseError, base_folders
from mgm.model.checkpoint.checkpoint import check_checkpoint
from mgm.model.checkpoint.saved_files import ADAPTER_CONFIG
from mgm.model.files.hub import checkpoint_folder
from mgm.model.loading import load_model


def merge(adapter: str, target: Path, base: str | None = None) -> int:
    """Merge an adapter into its base model and save the result.

    Args:
        adapter: the adapter's folder.
        target: the folder to write; must not exist.
        base: folder or hub name of the base model; None: the one that the adapter names.

    Returns:
        The number of parameters.

    Raises:
        MGMError: the folder holds no adapter, its base is missing, or the target exists.
    """
    folder = _adapter_folder(adapter, base)
    if target.exists():
        raise MGMError(f"MODEL {target}: exists already; name a new folder")
    model = load_model(folder, base=base)
    Engine(model, MGMProcessor.from_pretrained(folder, base=base)).save_pretrained(target)
    return sum(parameter.numel() for parameter in model.parameters())


def _adapter_folder(adapter: str, base: str | None) -> Path:
    """The folder of an adapter, checked together with its base; errors name the arguments.

    Raises:
        MGMError: it is no adapter, or its base is missing or has changed.
    """
    with prefix_errors("ADAPTER"):
        if not adapter:
            raise MGMError("ADAPTER is empty; give the folder of an adapter")
        folder = checkpoint_folder(adapter)
        if not (folder / ADAPTER_CONFIG).is_file():
            raise MGMError(
                f"ADAPTER {folder}: has no {ADAPTER_CONFIG}; give the folder of an adapter"
            )
        check_checkpoint(folder)
    if base is not None:
        with prefix_errors("--base"):
            checkpoint_folder(base)
    try:
        folders = [folder, *base_folders(folder, base)]
        if base is None:
            check_base_weights(folders, given=False)
    except MissingBaseError as error:
        raise MGMError(f"{error.fault}; give its folder with --base") from error
    return folder

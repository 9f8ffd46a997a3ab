"""Resolves the path of a model: a local folder, or a download from the Hugging Face hub."""

import os
from pathlib import Path
from typing import Any

from mgm.errors import MGMError, hub_errors, one_line

# Files of a model's repository besides weights.
SMALL_FILES = ("*.json", "*.model", "*.jinja", "*.txt")
# Weight formats; the first that a repository has is downloaded.
WEIGHTS = ("*.safetensors", "*.bin")
DOWNLOAD_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")


def checkpoint_folder(path: str | os.PathLike[str], weights: bool = True, **where: Any) -> Path:
    """Resolve `path` to a local folder: a folder itself, or the download of a repository id.

    Args:
        path: a folder, or a repository id such as "owner/name".
        weights: whether weights are downloaded too.
        **where: options of `huggingface_hub.snapshot_download` that `DOWNLOAD_OPTIONS` lists.

    Raises:
        MGMError: `path` is neither a folder nor a repository id that can be downloaded.
    """
    if not os.fspath(path):
        raise MGMError("the path of a model is empty; give its folder")
    folder = Path(path)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise MGMError(f"{path}: is a file; give the folder with config.json and weights")
    # "playground/mgm-nano" could be a repository id, but beside an existing folder "playground" it
    # is a missing folder.
    if not is_repository_id(str(path)) or folder.parent.is_dir():
        raise MGMError(f"{path}: no such folder; give a folder with config.json and weights")
    where = {name: value for name, value in where.items() if value is not None}
    # Imported here: most runs download nothing.
    from huggingface_hub import snapshot_download

    try:
        small = [*SMALL_FILES]
        snapshot = Path(snapshot_download(str(path), allow_patterns=small, **where))
        for kind in WEIGHTS if weights else ():
            snapshot = Path(snapshot_download(str(path), allow_patterns=[*small, kind], **where))
            if any(snapshot.glob(kind)):
                break
    except hub_errors() as error:
        at = f" (revision {where['revision']})" if "revision" in where else ""
        raise MGMError(
            f"{path}{at}: no such folder, and no download from the hub ({type(error).__name__}: "
            f"{one_line(error)[:200]}); check name, revision, token and connection, or give a "
            "local folder"
        ) from error
    return snapshot


def part_folder(path: str | os.PathLike[str]) -> Path:
    """Resolve an encoder or language model to a local folder, downloaded if it is on the hub.

    Args:
        path: a folder; a repository id, also as OpenCLIP writes it ("hf-hub:owner/name"); or a
            model of OpenCLIP with its weights' tag
            ("convnext_large_d_320:laion2b_s29b_b131k_ft_soup").

    Raises:
        MGMError: the download fails, or OpenCLIP is needed and not installed, or knows no such
            model. The path of a missing folder is returned unchanged.
    """
    name = str(path)
    if Path(name).exists() or (Path(name).parent.name and Path(name).parent.is_dir()):
        return Path(name)
    if name.startswith("hf-hub:"):
        return checkpoint_folder(name.removeprefix("hf-hub:"))
    if ":" in name and "/" not in name:
        return checkpoint_folder(_openclip_repository(name))
    return checkpoint_folder(name) if is_repository_id(name) else Path(name)


def _openclip_repository(name: str) -> str:
    try:
        import open_clip
    except ImportError as error:
        raise MGMError(
            f"{name}: a name of OpenCLIP needs open_clip_torch; install the extra: "
            "pip install 'mgm[openclip]', or give the folder or hub id of the model"
        ) from error
    model, _, tag = name.partition(":")
    repository = open_clip.get_pretrained_cfg(model, tag).get("hf_hub")
    if not repository:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "no weights"
        raise MGMError(f"{name}: OpenCLIP has no such weights; of {model} it has {tags}")
    return repository.rstrip("/")


def is_repository_id(path: str) -> bool:
    """Whether `path` has the form "owner/name"."""
    parts = path.split("/")
    return len(parts) == 2 and all(parts) and not path.startswith((".", "/", "~"))

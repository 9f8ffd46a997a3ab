"""Digests of a checkpoint's files, to detect files that were replaced or lost later."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mgm.errors import MGMError, one_line
from mgm.file_digest import file_digest
from mgm.model.checkpoint.saved_files import ADAPTER_CONFIG, CONFIG_FILE, is_of_processor

DIGESTS = "files"  # their field in run.json
# run.json holds the digests. adapter_config.json has the path of the base model, which users edit
# when that is moved; its other fields are compared as flags.
_EXCLUDED = ("run.json", ADAPTER_CONFIG)
# Files of one rank, which checks them itself.
_RANK_FILES = re.compile(r"optimizer(-\d+)?\.pt|rng_state.*\.pth|stream-\d+\.json|global_step.*/.*")
_STEP_FILES = ("scheduler.pt", "scaler.pt", "latest")  # not needed when all steps are done
_SCRIPT = "zero_to_fp32.py"  # DeepSpeed's conversion script, never read here
_CONFIG_FILES = (CONFIG_FILE, "generation_config.json")


def file_digests(folder: Path) -> dict[str, str]:
    """Digests of all files of a checkpoint by relative path; of large files, of some blocks.

    Raises:
        OSError: a file cannot be read.
    """
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    names = {file: file.relative_to(folder).as_posix() for file in files}
    return {name: file_digest(file).hex() for file, name in names.items() if name not in _EXCLUDED}


def changed_files(folder: Path, digests: dict[str, Any]) -> list[Path]:
    """Files of a checkpoint that exist and differ from their digests.

    Args:
        folder: folder of the checkpoint.
        digests: digests by relative path.

    Raises:
        MGMError: a file cannot be read.
    """
    changed = []
    for name, digest in digests.items():
        file = folder / name
        try:
            if file.is_file() and file_digest(file).hex() != digest:
                changed.append(file)
        except OSError as error:
            raise MGMError(
                f"{file}: cannot be read ({one_line(error.strerror or error)}); check its "
                "permissions"
            ) from error
    return changed


def missing_files(folder: Path, names: Iterable[str], adapter: bool, finished: bool) -> list[Path]:
    """Files that a checkpoint was written with, now lacks, and that its run needs.

    Args:
        folder: folder of the checkpoint.
        names: relative paths of its files.
        adapter: whether an adapter is trained; its processor, and its config until the end, come
            from the base model.
        finished: whether all steps are done, so that only the model is saved.
    """
    lacking = (name for name in names if not (folder / name).is_file())
    return [folder / name for name in lacking if _is_needed(name, adapter, finished)]


def _is_needed(name: str, adapter: bool, finished: bool) -> bool:
    if name == _SCRIPT or _RANK_FILES.fullmatch(name):
        return False
    if name in _STEP_FILES:
        return not finished
    if adapter and is_of_processor(name.partition("/")[0]):
        return False
    return not (adapter and not finished and name in _CONFIG_FILES)

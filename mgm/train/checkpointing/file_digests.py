"""Digests of a checkpoint's files, which tell whether one was replaced or lost afterwards."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mgm.errors import MGMError, one_line
from mgm.file_digest import file_digest
from mgm.model.checkpoint.saved_files import ADAPTER_CONFIG, CONFIG_FILE, is_of_processor

DIGESTS = "files"  # the entry of run.json that has them
# The first is where digests are written. The second names the base model, which users correct where
# that was moved; all else in it is compared as flags.
_LEFT_OUT = ("run.json", ADAPTER_CONFIG)
# What one process alone reads, for its next step: it looks for them itself.
_OF_A_PROCESS = re.compile(
    r"optimizer(-\d+)?\.pt|rng_state.*\.pth|stream-\d+\.json|global_step.*/.*"
)
_OF_STEPS = ("scheduler.pt", "scaler.pt", "latest")  # what no finished run needs
_UNREAD = "zero_to_fp32.py"  # a program of DeepSpeed's
_OF_CONFIG = (CONFIG_FILE, "generation_config.json")


def file_digests(folder: Path) -> dict[str, str]:
    """Digests of all files of a checkpoint, by their path in it; of large files, as of blocks.

    Raises:
        OSError: a file cannot be read.
    """
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    names = {file: file.relative_to(folder).as_posix() for file in files}
    return {name: file_digest(file).hex() for file, name in names.items() if name not in _LEFT_OUT}


def changed_files(folder: Path, digests: dict[str, Any]) -> list[Path]:
    """The files of a checkpoint that are there, and differ from their digests.

    Args:
        folder: of the checkpoint.
        digests: by the path in it.

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
    """The files that a checkpoint was written with, and lacks where its run needs them.

    Args:
        folder: of the checkpoint.
        names: of the files, as paths in it.
        adapter: whether an adapter is trained, whose processor is the base model's, and the config
            too until the result is written.
        finished: whether all steps were done, and the result alone is to be written.
    """
    lacking = (name for name in names if not (folder / name).is_file())
    return [folder / name for name in lacking if _is_needed(name, adapter, finished)]


def _is_needed(name: str, adapter: bool, finished: bool) -> bool:
    if name == _UNREAD or _OF_A_PROCESS.fullmatch(name):
        return False
    if name in _OF_STEPS:
        return not finished
    if adapter and is_of_processor(name.partition("/")[0]):
        return False
    return not (adapter and not finished and name in _OF_CONFIG)

"""Digests of a checkpoint's files, which tell whether one was replaced since it was made."""

from pathlib import Path
from typing import Any

from mgm.errors import MGMError, one_line
from mgm.file_digest import file_digest
from mgm.model.checkpoint.saved_files import ADAPTER_CONFIG

DIGESTS = "files"  # the entry of run.json that has them
# The first is where digests are written. The second names the base model, which users correct where
# that was moved; all else in it is compared as flags.
_LEFT_OUT = ("run.json", ADAPTER_CONFIG)


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

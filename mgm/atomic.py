"""Atomic writes: files and folders appear under their final name only when complete."""

import hashlib
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from mgm.errors import MGMError, one_line

STALE_SECONDS = 7 * 86400.0  # after which an unchanged part of another machine is removed
_PROCESS_TAG = re.compile(r"\.([0-9a-f]{8})-(\d+)\b")  # format of `process_tag`


class WriteError(MGMError):
    """A file or folder could not be written.

    Attributes:
        path: of the file or folder. The block that writes a whole folder replaces the path of one
            of its temporary parts by its own.
        reason: the system's message.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path}: could not be written ({reason}); free space or choose another path and run "
            "again"
        )
        self.path, self.reason = path, reason


@contextmanager
def write_errors(path: Path) -> Generator[None]:
    """Convert the errors that libraries raise for a full disk or missing permission to one type.

    Args:
        path: what is being written; the error names it.

    Raises:
        WriteError: the block could not write.
    """
    try:
        yield
    except WriteError as error:
        if any(name.endswith(".part") for name in error.path.parts):
            raise WriteError(path, error.reason) from error
        raise
    except MGMError:
        raise
    except Exception as error:
        if not _is_write_error(error):
            raise
        reason = one_line(getattr(error, "strerror", None) or error)
        raise WriteError(path, reason) from error


def _is_write_error(error: BaseException) -> bool:
    text = str(error)
    return (
        isinstance(error, (OSError, SafetensorError))
        or (isinstance(error, RuntimeError) and "inline_container" in text)  # raised by torch.save
        or (type(error) is Exception and "os error" in text)  # raised by tokenizers
    )


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Generator[Path]:
    """Yield a new folder next to `path`; rename it to `path` when the block succeeds.

    An existing `path` is replaced as a whole, and only after the new one is complete.

    Raises:
        WriteError: the folder could not be written (disk full, no permission); it is removed.
    """
    path = Path(path)
    part = _temporary_path(path)
    with write_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.mkdir()
            yield part
            make_readable(part)
            if path.is_dir():
                old = _temporary_path(path)
                path.rename(old)
                part.rename(path)
                shutil.rmtree(old)
            else:
                part.rename(path)
        finally:
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Generator[Path]:
    """Yield a path next to `path` to write to; rename it to `path` when the block succeeds.

    Raises:
        WriteError: the file could not be written (disk full, no permission); it is removed.
    """
    path = Path(path)
    part = _temporary_path(path)
    with write_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield part
            part.rename(path)
        finally:
            part.unlink(missing_ok=True)


def make_readable(folder: Path) -> None:
    """Give the files the folder's read permissions; safetensors grants them to the owner only."""
    mode = folder.stat().st_mode & 0o666
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(file.stat().st_mode | mode)


def process_tag() -> str:
    """Host and process id as part of a file name, which `remove_stale_parts` parses."""
    host = hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()
    return f"{host}-{os.getpid()}"


def remove_stale_parts(folder: Path, name: str) -> None:
    """Remove partial `atomic_folder(folder / f"{name}.{process_tag()}")` of killed processes.

    Parts of running processes stay; those of other machines are removed after `STALE_SECONDS`.
    """
    for part in [*folder.glob(f".{name}.*.part*"), *folder.glob(f"{name}.*")]:
        if _is_stale(part):
            shutil.rmtree(part, ignore_errors=True)


def _is_stale(part: Path) -> bool:
    match = _PROCESS_TAG.search(part.name)
    if match is not None and process_tag().startswith(f"{match[1]}-"):
        return not _is_running(int(match[2]))
    try:
        return time.time() - part.stat().st_mtime > STALE_SECONDS
    except OSError:
        return False


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's process
        return True
    return True


def _temporary_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part{path.suffix}")

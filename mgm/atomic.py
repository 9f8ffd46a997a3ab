"""Files and folders that appear under their final name only when they are complete."""

import hashlib
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType

from safetensors import SafetensorError

from mgm.errors import MGMError, one_line

LEFT_SECONDS = 7 * 86400.0  # after which an unchanged part of another machine counts as left
_PROCESS = re.compile(r"\.([0-9a-f]{8})-(\d+)\b")  # of `process_name`


class WriteErrors(AbstractContextManager[None]):
    """Makes one error of the many that libraries raise when a disk is full or may not be written.

    Args:
        path: what is being written; the error names it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, NotWrittenError):
            if any(name.endswith(".part") for name in error.path.parts):
                raise NotWrittenError(self.path, error.reason) from error
        elif error is not None and not isinstance(error, MGMError) and _is_write_error(error):
            reason = one_line(getattr(error, "strerror", None) or error)
            raise NotWrittenError(self.path, reason) from error


class NotWrittenError(MGMError):
    """A file or folder could not be written.

    Attributes:
        path: of it; where that is a part of another, whoever writes the other names that instead.
        reason: what the system said.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path}: could not be written ({reason}); free space or choose another place and run "
            "again"
        )
        self.path, self.reason = path, reason


def _is_write_error(error: BaseException) -> bool:
    text = str(error)
    return (
        isinstance(error, (OSError, SafetensorError))
        or (isinstance(error, RuntimeError) and "inline_container" in text)  # of torch.save
        or (type(error) is Exception and "os error" in text)  # of tokenizers
    )


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Generator[Path]:
    """Give a fresh folder beside `path`; rename it to `path` when the block succeeds.

    An existing `path` is replaced as a whole, and only after the new one is complete.

    Raises:
        MGMError: the folder could not be written (disk full, no permission); nothing stays behind.
    """
    path = Path(path)
    part = _beside(path)
    with WriteErrors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.mkdir()
            yield part
            make_readable(part)
            if path.is_dir():
                old = _beside(path)
                path.rename(old)
                part.rename(path)
                shutil.rmtree(old)
            else:
                part.rename(path)
        finally:
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Generator[Path]:
    """Give a path beside `path` to write to; rename it to `path` when the block succeeds.

    Raises:
        MGMError: the file could not be written (disk full, no permission); nothing stays behind.
    """
    path = Path(path)
    part = _beside(path)
    with WriteErrors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield part
            part.rename(path)
        finally:
            part.unlink(missing_ok=True)


def make_readable(folder: Path) -> None:
    """Let the files be read by whom the folder may; safetensors writes for the owner alone."""
    mode = folder.stat().st_mode & 0o666
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(file.stat().st_mode | mode)


def process_name() -> str:
    """This process on this machine, as a part of a file's name; see `remove_left_parts`."""
    host = hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()
    return f"{host}-{os.getpid()}"


def remove_left_parts(folder: Path, name: str) -> None:
    """Remove what killed processes left of `atomic_folder(folder / f"{name}.{process_name()}")`.

    Parts of running processes stay. Those of other machines go when they are `LEFT_SECONDS` old.
    """
    for part in [*folder.glob(f".{name}.*.part*"), *folder.glob(f"{name}.*")]:
        if _is_left(part):
            shutil.rmtree(part, ignore_errors=True)


def _is_left(part: Path) -> bool:
    found = _PROCESS.search(part.name)
    if found is not None and process_name().startswith(f"{found[1]}-"):
        return not _runs(int(found[2]))
    try:
        return time.time() - part.stat().st_mtime > LEFT_SECONDS
    except OSError:
        return False


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is another user's
        return True
    return True


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part{path.suffix}")

"""Files and folders that appear under their final name only when they are complete."""

import os
import shutil
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from mgm.errors import MGMError, one_line


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Generator[Path]:
    """Give a fresh folder beside `path`; rename it to `path` when the block succeeds.

    An existing `path` is replaced as a whole, and only after the new one is complete.

    Raises:
        MGMError: the folder could not be written (disk full, no permission); nothing stays behind.
    """
    path = Path(path)
    part = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir()
        yield part
        if path.is_dir():
            old = _beside(path)
            path.rename(old)
            part.rename(path)
            shutil.rmtree(old)
        else:
            part.rename(path)
    except OSError as error:
        raise _cannot_write(path, error) from error
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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.rename(path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        part.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part{path.suffix}")


def _cannot_write(path: Path, error: OSError) -> MGMError:
    reason = one_line(error.strerror or error)
    return MGMError(
        f"{path}: could not be written ({reason}); free space or choose another place and run again"
    )

"""Folders of checkpoints: complete under their names or not there at all."""

import os
import re
import shutil
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from mgm.atomic import WriteErrors, make_readable
from mgm.errors import MGMError, one_line

STATE_FILE = "trainer_state.json"  # the last file that the Trainer writes into a checkpoint
_PART = re.compile(r"\.(checkpoint-\d+|model)\.[0-9a-f]{8}\.part")


@contextmanager
def complete_files(folder: Path) -> Generator[Path]:
    """Give a fresh folder; move its files into `folder`, among others, when the block succeeds.

    Raises:
        MGMError: they could not be written; `folder` is as before.
    """
    part = folder / f".model.{uuid.uuid4().hex[:8]}.part"
    with WriteErrors(folder):
        try:
            part.mkdir(parents=True)
            yield part
            make_readable(part)
            written = {file.name for file in part.iterdir()}
            # config.json last: a folder without it is no model.
            for name in sorted(written, key=lambda name: (name == "config.json", name)):
                (part / name).replace(folder / name)
            for pattern in ("*.safetensors", "*.safetensors.index.json"):
                for file in folder.glob(pattern):
                    if file.name not in written:
                        file.unlink()  # of an earlier model, that would be read with this one
        finally:
            shutil.rmtree(part, ignore_errors=True)


def prepare_output(path: str | os.PathLike[str]) -> Path:
    """Make the output folder, and clear what a killed run left half-written in it.

    Raises:
        MGMError: it cannot be made or written to.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".model.{uuid.uuid4().hex[:8]}.part"
        probe.mkdir()
        for left in folder.iterdir():
            if _PART.fullmatch(left.name):
                shutil.rmtree(left)
    except OSError as error:
        raise MGMError(
            f"--output_dir {folder}: cannot be written to ({one_line(error.strerror or error)}); "
            "choose another place"
        ) from error
    return folder


def checkpoint_to_resume(asked: str | None, output: Path) -> Path | None:
    """The checkpoint that a run goes on from, if any.

    Args:
        asked: the flag: a folder, or true or false; left out it counts as true.
        output: where the run's own checkpoints are.

    Raises:
        MGMError: the folder that is asked for is no complete checkpoint.
    """
    word = (asked or "").lower()
    if word in ("", "true"):
        return last_checkpoint(output)
    if word in ("false", "none"):
        return None
    folder = Path(asked or "")
    if not (folder / STATE_FILE).is_file():
        raise MGMError(
            f"--resume_from_checkpoint {asked}: no complete checkpoint, lacks {STATE_FILE}; "
            "give a folder checkpoint-<step>, or leave the flag out"
        )
    return folder


def last_checkpoint(output: Path) -> Path | None:
    """The complete checkpoint of the latest step in a folder, or None."""
    found = [folder for folder in checkpoints(output) if (folder / STATE_FILE).is_file()]
    return found[-1] if found else None


def checkpoints(output: Path) -> list[Path]:
    """All folders `checkpoint-<step>`, by step."""
    steps = {
        int(match.group(1)): folder
        for folder in output.iterdir()
        if (match := re.fullmatch(r"checkpoint-(\d+)", folder.name)) and folder.is_dir()
    }
    return [steps[step] for step in sorted(steps)]

"""Folders of checkpoints: complete under their names or not there at all."""

import os
import re
import shutil
import uuid
import zipfile
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch.distributed as dist

from mgm.atomic import WriteErrors, atomic_folder, make_readable
from mgm.errors import MGMError, one_line
from mgm.model.checkpoint.checkpoint import CONFIG_FILE
from mgm.model.checkpoint.components import STAGE1_FILE
from mgm.model.files.json_file import read_json

STATE_FILE = "trainer_state.json"  # the last file that the Trainer writes into a checkpoint
# What saving a model leaves, and would be read with one that is saved into the same folder later.
_OF_MODEL = re.compile(
    r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|" + re.escape(STAGE1_FILE)
)
_PART = re.compile(r"\.(checkpoint-\d+|model)\.[0-9a-f]{8}\.part")


@contextmanager
def complete_files(folder: Path) -> Generator[Path]:
    """Give a fresh folder; move its files into `folder`, among others, when the block succeeds.

    An earlier model in `folder` is replaced: from then on until the last file is there, `folder`
    has no config.json and counts as no model. Files that no model of ours leaves stay.

    Raises:
        MGMError: they could not be written; `folder` is as before, or lacks its config.json.
    """
    part = folder / f".model.{uuid.uuid4().hex[:8]}.part"
    with WriteErrors(folder):
        try:
            part.mkdir(parents=True)
            yield part
            make_readable(part)
            (folder / CONFIG_FILE).unlink(missing_ok=True)
            for file in folder.iterdir():
                if _OF_MODEL.fullmatch(file.name):
                    file.unlink()
            written = {file.name for file in part.iterdir()}
            for name in sorted(written, key=lambda name: (name == CONFIG_FILE, name)):
                (part / name).replace(folder / name)
        finally:
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def shared_folder(path: Path, finish: Callable[[Path], None]) -> Generator[Path]:
    """As `atomic_folder`, but all processes of the run write into it together.

    In the block they must not wait for one another after one of them may have failed.

    Args:
        path: of the folder.
        finish: is called by the first process when all have written.

    Raises:
        MGMError: one of them could not; none of them leaves anything behind.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        with atomic_folder(path) as part:
            yield part
            finish(part)
        return
    with ExitStack() as stack:
        part, fault = None, None
        if dist.get_rank() == 0:
            try:
                part = stack.enter_context(atomic_folder(path))
            except MGMError as error:
                fault = error
        part = _agreed(part, fault, path)
        try:
            yield Path(str(part))
        except Exception as error:  # noqa: BLE001  whatever it is, the others have to know
            fault = error
        faults: list[str | None] = [None] * dist.get_world_size()
        dist.all_gather_object(faults, None if fault is None else one_line(fault))
        if fault is not None:
            raise fault
        for rank, other in enumerate(faults):
            if other is not None:
                raise MGMError(f"{path}: process {rank} could not write its part ({other})")
        if dist.get_rank() == 0:
            try:
                finish(Path(str(part)))
                stack.close()
            except (MGMError, OSError) as error:
                fault = error
        _agreed(None, fault, path)  # nobody goes on before it has its name


def _agreed(value: object, fault: Exception | None, path: Path) -> object:
    """The first process's value; raises its fault, in all of them, if it has one."""
    shared = [value, None if fault is None else one_line(fault)]
    dist.broadcast_object_list(shared)
    if fault is not None:
        raise fault
    if shared[1] is not None:
        raise MGMError(f"{path}: process 0 could not write it ({shared[1]})")
    return shared[0]


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
        MGMError: the folder that is asked for is no complete checkpoint, or a file is damaged.
    """
    word = (asked or "").lower()
    if word in ("false", "none"):
        return None
    folder = last_checkpoint(output) if word in ("", "true") else Path(asked or "")
    if folder is None:
        return None
    if not (folder / STATE_FILE).is_file():
        raise MGMError(
            f"--resume_from_checkpoint {asked}: no complete checkpoint, lacks {STATE_FILE}; "
            "give a folder checkpoint-<step>, or leave the flag out"
        )
    _check_files(folder)
    return folder


def _check_files(folder: Path) -> None:
    """Find what a full disk or a broken copy cut short, before the model is loaded."""
    read_json(folder / STATE_FILE)
    for file in sorted((*folder.glob("*.pt"), *folder.glob("*.pth"))):
        # torch.save writes a zip archive, whose directory is at its end.
        if not zipfile.is_zipfile(file):
            raise MGMError(
                f"{file}: is truncated or damaged; copy it again, or delete {folder} to go on from "
                "the checkpoint before it"
            )


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

"""Folders of checkpoints: complete under their names or not there at all."""

import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import torch.distributed as dist

from mgm.atomic import WriteErrors, atomic_folder
from mgm.errors import MGMError, one_line
from mgm.model.checkpoint.saved_files import check_replaceable, finish_replacement
from mgm.model.files.json_file import is_present, read_json
from mgm.train.distributed.first_process import broadcast_from_rank0, is_single_process

logger = logging.getLogger(__name__)

STATE_FILE = "trainer_state.json"  # the last file that the Trainer writes into a checkpoint
BENCHMARK_DIR = "eval"  # benchmark results of the checkpoints, in the output folder
_CHECKPOINT = re.compile(r"checkpoint-\d+")
_PART = re.compile(r"\.(checkpoint-\d+|model)\.[0-9a-f]{8}\.part")


@contextmanager
def atomic_folder_of_ranks(path: Path, finish: Callable[[Path], None]) -> Generator[Path]:
    """As `atomic_folder`, but all processes of the run write into it together.

    In the block they must not wait for one another after one of them may have failed.

    Args:
        path: of the folder.
        finish: is called by the first process when all have written.

    Raises:
        MGMError: one of them could not; none of them leaves anything behind.
    """
    if is_single_process():
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


def prepare_output_dir(path: str | os.PathLike[str]) -> Path:
    """Make the output folder, and clear what a killed run left half-written in it.

    A model that was complete when the run was killed gets its place.

    Raises:
        MGMError: it cannot be made or written to, is a checkpoint itself, or has a folder where a
            file of the model is to go.
    """
    folder = Path(path)
    if state := sorted(folder.glob("rng_state*.pth")):
        raise MGMError(
            f"--output_dir {folder}: is a checkpoint of a run, with its {state[0].name}; choose "
            "another folder"
        )
    try:
        check_replaceable(folder)
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".model.{uuid.uuid4().hex[:8]}.part"
        probe.mkdir()
        for left in folder.iterdir():
            if _PART.fullmatch(left.name):
                shutil.rmtree(left)
        finish_replacement(folder)
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
    if word in ("false", "none"):
        return None
    folder = last_checkpoint(output) if word in ("", "true") else Path(asked or "")
    if folder is None:
        return None
    inner = last_checkpoint(folder)
    if inner is not None:
        raise MGMError(
            f"--resume_from_checkpoint {asked}: is the folder of a run; give its last checkpoint, "
            f"{inner}"
        )
    if not is_present(folder / STATE_FILE):
        raise MGMError(
            f"--resume_from_checkpoint {asked}: no complete checkpoint, lacks {STATE_FILE}; "
            "give a folder checkpoint-<step>, or leave the flag out"
        )
    return folder


def set_aside_earlier_runs(output: Path, resumed: Path | None, files: Sequence[str] = ()) -> None:
    """Move what earlier runs left in the output folder into a folder of its own, and say so.

    Of this run are the checkpoint that it goes on from, if that lies in `output`, and those before
    it. All others would be taken for its own: counted by `--save_total_limit`, deleted in place of
    newer ones, and gone on from. The first process does it, when all of them have come here: they
    have looked for the checkpoint to go on from. None goes on before it is done.

    Args:
        output: the folder of the run.
        resumed: the checkpoint that the run goes on from.
        files: others in `output` that only this run's may stay of, where it begins anew.

    Raises:
        MGMError: they could not be moved.
    """
    if not is_single_process():
        dist.barrier()
    broadcast_from_rank0(lambda: _set_aside_earlier_runs(output, resumed, files))


def _set_aside_earlier_runs(output: Path, resumed: Path | None, files: Sequence[str]) -> None:
    last = -1
    if resumed is not None and resumed.resolve().parent == output.resolve():
        last = int(read_json(resumed / STATE_FILE).get("global_step", -1))
    found = [*list_checkpoints(output), *list_checkpoints(output / BENCHMARK_DIR)]
    names = [str(at.relative_to(output)) for at in found if checkpoint_step(at) > last]
    names += [name for name in files if last < 0 and is_present(output / name)]
    if not names:
        return
    number = next(i for i in count(1) if not is_present(output / f"earlier_run_{i}"))
    aside = output / f"earlier_run_{number}"
    with WriteErrors(aside):
        for name in names:
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            (output / name).rename(aside / name)
    logger.warning("%s: %s of an earlier run moved to %s", output, ", ".join(names), aside)


def last_checkpoint(output: Path) -> Path | None:
    """The complete checkpoint of the latest step in a folder, or None."""
    found = [folder for folder in list_checkpoints(output) if (folder / STATE_FILE).is_file()]
    return found[-1] if found else None


def list_checkpoints(output: Path) -> list[Path]:
    """All folders `checkpoint-<step>`, by step; none if there is no such folder."""
    if not output.is_dir():
        return []
    found = (folder for folder in output.iterdir() if is_checkpoint_name(folder.name))
    return sorted((folder for folder in found if folder.is_dir()), key=checkpoint_step)


def is_checkpoint_name(name: str) -> bool:
    """Whether it has the form `checkpoint-<step>`."""
    return bool(_CHECKPOINT.fullmatch(name))


def checkpoint_step(checkpoint: Path) -> int:
    """The step in the name of a folder `checkpoint-<step>`."""
    return int(checkpoint.name.rpartition("-")[2])

"""Checkpoint folders: written atomically by all ranks, listed, resumed from, moved aside."""

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

from mgm.atomic import atomic_folder, write_errors
from mgm.errors import MGMError, one_line
from mgm.model.checkpoint.saved_files import check_replaceable, finish_replacement
from mgm.model.files.json_file import is_present, read_json
from mgm.train.distributed.collectives import broadcast_from_rank0, is_single_process

logger = logging.getLogger(__name__)

STATE_FILE = "trainer_state.json"  # written last by the Trainer
BENCHMARK_DIR = "eval"  # benchmark results of the checkpoints, in the output folder
_CHECKPOINT = re.compile(r"checkpoint-\d+")
_PART = re.compile(r"\.(checkpoint-\d+|model)\.[0-9a-f]{8}\.part")


@contextmanager
def atomic_folder_of_ranks(path: Path, finish: Callable[[Path], None]) -> Generator[Path]:
    """`atomic_folder` for a folder that all ranks write into.

    The block must not contain collectives: another rank may have failed already.

    Args:
        path: path of the folder.
        finish: is called by rank 0 when all ranks have written.

    Raises:
        MGMError: a rank could not write; nothing is left on the disk.
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
        part = _broadcast_or_raise(part, fault, path)
        try:
            yield Path(str(part))
        except Exception as error:  # noqa: BLE001  the other ranks have to get any of them
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
        _broadcast_or_raise(None, fault, path)  # all ranks wait until it has its name


def _broadcast_or_raise(value: object, fault: Exception | None, path: Path) -> object:
    """Broadcast a value from rank 0, or raise its error on all ranks."""
    shared = [value, None if fault is None else one_line(fault)]
    dist.broadcast_object_list(shared)
    if fault is not None:
        raise fault
    if shared[1] is not None:
        raise MGMError(f"{path}: process 0 could not write it ({shared[1]})")
    return shared[0]


def prepare_output_dir(path: str | os.PathLike[str]) -> Path:
    """Create the output folder, and remove partial files of a killed run.

    A model that was complete when the run was killed is moved to its final path.

    Raises:
        MGMError: it cannot be created or written to, is itself a checkpoint, or has a folder with
            the name of a file of the model.
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
        for entry in folder.iterdir():
            if _PART.fullmatch(entry.name):
                shutil.rmtree(entry)
        finish_replacement(folder)
    except OSError as error:
        raise MGMError(
            f"--output_dir {folder}: cannot be written to ({one_line(error.strerror or error)}); "
            "choose another folder"
        ) from error
    return folder


def checkpoint_to_resume(flag: str | None, output: Path) -> Path | None:
    """The checkpoint that a run resumes from, if any.

    Args:
        flag: `--resume_from_checkpoint`: a folder, true or false; None counts as true.
        output: folder of the run, with its checkpoints.

    Raises:
        MGMError: the folder of the flag is no complete checkpoint.
    """
    value = (flag or "").lower()
    if value in ("false", "none"):
        return None
    folder = last_checkpoint(output) if value in ("", "true") else Path(flag or "")
    if folder is None:
        return None
    inner = last_checkpoint(folder)
    if inner is not None:
        raise MGMError(
            f"--resume_from_checkpoint {flag}: is the folder of a run; give its last checkpoint, "
            f"{inner}"
        )
    if not is_present(folder / STATE_FILE):
        raise MGMError(
            f"--resume_from_checkpoint {flag}: no complete checkpoint, lacks {STATE_FILE}; "
            "give a folder checkpoint-<step>, or leave the flag out"
        )
    return folder


def set_aside_earlier_runs(output: Path, resumed: Path | None, files: Sequence[str] = ()) -> None:
    """Move checkpoints of earlier runs out of the output folder into `earlier_run_N`.

    This run owns the checkpoint that it resumes from, if that is in `output`, and those before it.
    Others would count for `--save_total_limit`, and could be resumed from by mistake. Rank 0 moves
    them after a barrier, when all ranks have chosen their checkpoint.

    Args:
        output: the folder of the run.
        resumed: the checkpoint that the run resumes from.
        files: names of other files that are moved too, unless the run resumes.

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
    folders = [*list_checkpoints(output), *list_checkpoints(output / BENCHMARK_DIR)]
    names = [str(at.relative_to(output)) for at in folders if checkpoint_step(at) > last]
    names += [name for name in files if last < 0 and is_present(output / name)]
    if not names:
        return
    number = next(i for i in count(1) if not is_present(output / f"earlier_run_{i}"))
    aside = output / f"earlier_run_{number}"
    with write_errors(aside):
        for name in names:
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            (output / name).rename(aside / name)
    logger.warning("%s: %s of an earlier run moved to %s", output, ", ".join(names), aside)


def last_checkpoint(output: Path) -> Path | None:
    """The complete checkpoint of the latest step in a folder, or None."""
    complete = [at for at in list_checkpoints(output) if (at / STATE_FILE).is_file()]
    return complete[-1] if complete else None


def list_checkpoints(output: Path) -> list[Path]:
    """All folders `checkpoint-<step>`, by step; none if there is no such folder."""
    if not output.is_dir():
        return []
    entries = (entry for entry in output.iterdir() if is_checkpoint_name(entry.name))
    return sorted((entry for entry in entries if entry.is_dir()), key=checkpoint_step)


def is_checkpoint_name(name: str) -> bool:
    """Whether a name has the form `checkpoint-<step>`."""
    return bool(_CHECKPOINT.fullmatch(name))


def checkpoint_step(checkpoint: Path) -> int:
    """The step in the name of a folder `checkpoint-<step>`."""
    return int(checkpoint.name.rpartition("-")[2])

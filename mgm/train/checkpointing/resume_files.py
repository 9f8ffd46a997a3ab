"""The files that a run resumes from: each is there, whole, and of its kind."""

import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import TrainerState
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from mgm.data.datasets.streaming import stream_file
from mgm.errors import MGMError
from mgm.model.checkpoint.lora import ADAPTER_FILES, OTHERS_FILE
from mgm.model.files.json_file import read_json
from mgm.train.args.arguments import TrainingArguments
from mgm.train.checkpointing.checkpoints import STATE_FILE

# What a file of another kind lacks.
KEYS = {
    OPTIMIZER_NAME: {"state", "param_groups"},
    SCHEDULER_NAME: {"last_epoch", "base_lrs"},
}
STREAM_KEYS = {"workers", "next", "cursors"}
UNREADABLE = (OSError, RuntimeError, UnpicklingError, EOFError, KeyError, ValueError, TypeError)


def check_files(
    checkpoint: Path, training: TrainingArguments, streaming: bool, finished: bool = False
) -> None:
    """See whether this process can resume from a checkpoint.

    Args:
        checkpoint: its folder.
        training: flags, which decide which files there are.
        streaming: whether the data is a stream.
        finished: whether all steps were done; then what only a step needs may be absent.

    Raises:
        MGMError: a file is missing, damaged, or of another kind; names it.
    """
    trainer_state(checkpoint)
    if training.lora_enable:
        _check_adapter(checkpoint)
    if finished:
        return
    rank = training.process_index
    if training.deepspeed:
        _check_deepspeed(checkpoint)
    else:
        name = f"optimizer-{rank}.pt" if training.sharded else OPTIMIZER_NAME
        _check_torch_file(checkpoint / name, KEYS[OPTIMIZER_NAME])
    if not (isinstance(training.deepspeed, dict) and "scheduler" in training.deepspeed):
        _check_torch_file(checkpoint / SCHEDULER_NAME, KEYS[SCHEDULER_NAME])
    random_state = rng_file(checkpoint, training)
    _check_present(random_state)
    if not zipfile.is_zipfile(random_state):
        raise damaged(random_state)
    if streaming:
        file = stream_file(checkpoint, rank)
        _check_present(file)
        if not read_json(file).keys() >= STREAM_KEYS:
            raise damaged(file)


def rng_file(checkpoint: Path, training: TrainingArguments) -> Path:
    """Where a checkpoint has the random numbers of this process."""
    number = f"_{training.process_index}" if training.world_size > 1 else ""
    return checkpoint / f"rng_state{number}.pth"


def trainer_state(checkpoint: Path) -> TrainerState:
    """What the Trainer knew when it wrote a checkpoint.

    Raises:
        MGMError: the file is not what the Trainer writes.
    """
    file = checkpoint / STATE_FILE
    content = read_json(file)
    try:
        state = TrainerState(**content)
    except (TypeError, ValueError) as error:
        raise damaged(file) from error
    numbers = (state.global_step, state.max_steps, state.num_train_epochs)
    if not all(type(number) is int for number in numbers) or state.global_step < 1:
        raise damaged(file)
    if not isinstance(state.log_history, list):
        raise damaged(file)
    name, _, step = checkpoint.resolve().name.rpartition("-")
    if name == "checkpoint" and step.isdecimal() and int(step) != state.global_step:
        raise MGMError(
            f"{file}: is of step {state.global_step}, in a checkpoint of step {step}; copy it "
            f"again, or delete {checkpoint} to resume from the checkpoint before it"
        )
    return state


def damaged(file: Path) -> MGMError:
    """What to say of a file that a checkpoint has, and that cannot be used."""
    return MGMError(
        f"{file}: is damaged, or of another kind; copy it again, or delete {file.parent} to resume "
        "from the checkpoint before it"
    )


def _check_present(file: Path) -> None:
    if not file.is_file():
        raise MGMError(
            f"{file}: is not there, and a run cannot resume without it (a checkpoint of "
            "--save_only_model True has none); copy it again, or begin anew with another "
            "--output_dir, or with --resume_from_checkpoint False"
        )


def _check_torch_file(file: Path, keys: set[str]) -> None:
    _check_present(file)
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except UNREADABLE as error:
        raise damaged(file) from error
    if not isinstance(content, dict) or not content.keys() >= keys:
        raise damaged(file)


def _check_adapter(checkpoint: Path) -> None:
    _check_torch_file(checkpoint / OTHERS_FILE, set())
    file = checkpoint / ADAPTER_FILES[0]
    _check_present(file)
    try:
        with safe_open(file, framework="pt"):
            pass
    except SafetensorError as error:
        raise damaged(file) from error


def _check_deepspeed(checkpoint: Path) -> None:
    latest = checkpoint / "latest"
    _check_present(latest)
    try:
        folder = checkpoint / latest.read_text(encoding="utf-8").strip()
        files = sorted(folder.glob("*.pt")) if folder != checkpoint else []
    except (OSError, ValueError) as error:
        raise damaged(latest) from error
    if not files:
        raise damaged(latest)
    for file in files:
        if not zipfile.is_zipfile(file):
            raise damaged(file)

"""Checks the files of a checkpoint before a resume: present, undamaged, of the same step."""

import logging
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from transformers import TrainerState
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from mgm.data.datasets.streaming import stream_file
from mgm.errors import MGMError
from mgm.model.checkpoint.lora import ADAPTER_FILES, NON_LORA_FILE
from mgm.model.files.json_fields import (
    BOOLEAN,
    TEXT,
    Rule,
    check_fields,
    integer,
    list_of,
    number,
    optional,
)
from mgm.model.files.json_file import read_json, read_optional_json
from mgm.model.files.safetensors_header import read_safetensors_header
from mgm.train.args.arguments import TrainingArguments
from mgm.train.checkpointing.checkpoints import STATE_FILE
from mgm.train.checkpointing.file_digests import DIGESTS, changed_files, missing_files
from mgm.train.checkpointing.run_fingerprint import FINGERPRINT_FILE

logger = logging.getLogger(__name__)

# Keys that each file must have.
STATE_KEYS = {
    OPTIMIZER_NAME: {"state", "param_groups"},
    SCHEDULER_NAME: {"last_epoch", "base_lrs"},
}
STREAM_KEYS = {"workers", "next", "cursors"}
# Byte strings in DeepSpeed's pickles, which cannot be loaded without executing their code.
MODEL_STATES_KEY, OPTIM_STATES_KEY = b"global_steps", b"optimizer_state_dict"
# Metrics that are plotted.
_PLOTTED = ("loss", "eval_loss", "learning_rate", "tokens_per_second")
TORCH_LOAD_ERRORS = (
    OSError,
    RuntimeError,
    UnpicklingError,
    EOFError,
    KeyError,
    ValueError,
    TypeError,
)


def _is_number(value: object) -> bool:
    """Whether a value is a number, NaN and infinity included, which a log may have."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_log_entry(value: object) -> bool:
    if not isinstance(value, dict) or type(value.get("step")) is not int:
        return False
    return all(_is_number(logged) for name, logged in value.items() if name.startswith(_PLOTTED))


_NUMBER = Rule(_is_number, "a number")
_OBJECT = Rule(lambda value: isinstance(value, dict), "an object")
_STATE_RULES = {
    "global_step": integer(1),
    **dict.fromkeys(("max_steps", "num_train_epochs"), integer(0)),
    **dict.fromkeys(("epoch", "logging_steps", "eval_steps", "save_steps"), number(0)),
    **dict.fromkeys(("num_input_tokens_seen", "total_flos"), number(0)),
    "train_batch_size": optional(integer(1)),
    "log_history": list_of(Rule(_is_log_entry, "an object with its step and numbers")),
    "best_metric": optional(_NUMBER),
    "best_global_step": optional(integer(0)),
    **dict.fromkeys(("best_model_checkpoint", "trial_name"), optional(TEXT)),
    "is_local_process_zero": BOOLEAN,
    "is_world_process_zero": BOOLEAN,
    "is_hyper_param_search": BOOLEAN,
    **dict.fromkeys(("stateful_callbacks", "trial_params"), optional(_OBJECT)),
}


def check_resume_files(
    checkpoint: Path, training: TrainingArguments, streaming: bool, finished: bool = False
) -> None:
    """Check the files that this process needs to resume from a checkpoint.

    Args:
        checkpoint: its folder.
        training: flags, which decide which files are needed.
        streaming: whether the data is a stream.
        finished: whether all steps are done, so that states of optimizer and stream may be missing.

    Raises:
        MGMError: names a file that is missing, damaged, or of another kind.
    """
    state = read_trainer_state(checkpoint)
    if training.lora_enable:
        _check_adapter(checkpoint)
    rank, digests = training.process_index, _digests(checkpoint)
    if digests is not None and rank == 0:  # checks the files of all ranks
        _check_unchanged(checkpoint, digests)
        _check_complete(checkpoint, digests, training.lora_enable, finished)
    if finished:
        return
    optimizer = schedule = None
    if training.deepspeed:
        _check_deepspeed(checkpoint, training)
    else:
        name = f"optimizer-{rank}.pt" if training.use_fsdp else OPTIMIZER_NAME
        optimizer = _torch_file(checkpoint / name, STATE_KEYS[OPTIMIZER_NAME])
    if not (isinstance(training.deepspeed, dict) and "scheduler" in training.deepspeed):
        schedule = _torch_file(checkpoint / SCHEDULER_NAME, STATE_KEYS[SCHEDULER_NAME])
    random_state = rng_file(checkpoint, training)
    _check_present(random_state)
    if not zipfile.is_zipfile(random_state):
        raise damaged_file_error(random_state)
    if streaming:
        file = stream_file(checkpoint, rank)
        _check_present(file)
        if not read_json(file).keys() >= STREAM_KEYS:
            raise damaged_file_error(file)
    if digests is None:
        _compare_steps(checkpoint, state.global_step, schedule, optimizer, training.fp16)


def _digests(checkpoint: Path) -> dict[str, Any] | None:
    """Digests that the checkpoint was written with; None: an earlier version wrote none."""
    file = checkpoint / FINGERPRINT_FILE
    digests = read_optional_json(file).get(DIGESTS)
    if digests is not None and not isinstance(digests, dict):
        raise damaged_file_error(file)
    return digests


def _check_unchanged(checkpoint: Path, digests: dict[str, Any]) -> None:
    changed = changed_files(checkpoint, digests)
    if changed:
        raise MGMError(
            f"{', '.join(map(str, changed))}: changed since the checkpoint was made; "
            f"{_remedy(checkpoint)}"
        )


def _check_complete(
    checkpoint: Path, digests: dict[str, Any], adapter: bool, finished: bool
) -> None:
    lost = missing_files(checkpoint, digests, adapter, finished)
    if lost:
        raise MGMError(
            f"{', '.join(map(str, lost))}: listed in {checkpoint / FINGERPRINT_FILE}, but missing "
            f"or no file; {_remedy(checkpoint)}"
        )


def _compare_steps(
    checkpoint: Path,
    step: int,
    schedule: dict[str, Any] | None,
    optimizer: dict[str, Any] | None,
    fp16: bool,
) -> None:
    """Refuse a schedule or moments of another step, for checkpoints without digests."""
    if schedule is not None:
        last = schedule["last_epoch"]
        # With fp16 the gradient scaler skips steps of both.
        if type(last) is not int or last > step or (last < step and not fp16):
            raise _of_another_step(checkpoint / SCHEDULER_NAME, last, step)
    done = []
    for moments in (optimizer or {}).get("state", {}).values():
        if "step" in moments:
            done.append(int(moments["step"]))
    if done and max(done) > step:
        raise _of_another_step(checkpoint / OPTIMIZER_NAME, max(done), step)
    if done and max(done) < step and not fp16:
        logger.warning(
            "%s: was updated in %d of %d steps; the others had no usable sample, or it is of "
            "another checkpoint",
            *(checkpoint / OPTIMIZER_NAME, max(done), step),
        )


def _of_another_step(file: Path, actual: object, step: int) -> MGMError:
    return MGMError(
        f"{file}: is of step {actual}, in a checkpoint of step {step}; {_remedy(file.parent)}"
    )


def rng_file(checkpoint: Path, training: TrainingArguments) -> Path:
    """The file with the RNG state of this process."""
    number = f"_{training.process_index}" if training.world_size > 1 else ""
    return checkpoint / f"rng_state{number}.pth"


def read_trainer_state(checkpoint: Path) -> TrainerState:
    """The trainer state of a checkpoint.

    Raises:
        MGMError: the file is missing, damaged, or of another step.
    """
    file = checkpoint / STATE_FILE
    content = read_json(file)
    try:
        check_fields(content, _STATE_RULES, file)
        state = TrainerState(**content)
    except MGMError as error:
        raise MGMError(f"{error}; {_remedy(checkpoint)}") from error
    except (TypeError, ValueError) as error:
        raise damaged_file_error(file) from error
    if not content.keys() >= {"global_step", "max_steps", "num_train_epochs"}:
        raise damaged_file_error(file)
    name, _, step = checkpoint.resolve().name.rpartition("-")
    if name == "checkpoint" and step.isdecimal() and int(step) != state.global_step:
        raise _of_another_step(file, state.global_step, int(step))
    return state


def damaged_file_error(file: Path, checkpoint: Path | None = None) -> MGMError:
    """The error of a damaged file in a checkpoint.

    Args:
        file: file in the checkpoint.
        checkpoint: its folder; None: the folder of the file.
    """
    return MGMError(f"{file}: is damaged, or of another kind; {_remedy(checkpoint or file.parent)}")


def _remedy(checkpoint: Path) -> str:
    return f"copy it again, or delete {checkpoint} to resume from the checkpoint before it"


def _check_present(file: Path) -> None:
    if not file.is_file():
        raise MGMError(
            f"{file}: is missing, and a run cannot resume without it (a checkpoint of "
            "--save_only_model True has none); copy it again, or start a new run with another "
            "--output_dir, or with --resume_from_checkpoint False"
        )


def _torch_file(file: Path, keys: set[str]) -> dict[str, Any]:
    _check_present(file)
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except TORCH_LOAD_ERRORS as error:
        raise damaged_file_error(file) from error
    if not isinstance(content, dict) or not content.keys() >= keys:
        raise damaged_file_error(file)
    return content


def _check_adapter(checkpoint: Path) -> None:
    _torch_file(checkpoint / NON_LORA_FILE, set())
    file = checkpoint / ADAPTER_FILES[0]
    _check_present(file)
    try:
        read_safetensors_header(file)
    except MGMError as error:
        raise damaged_file_error(file) from error


def _check_deepspeed(checkpoint: Path, training: TrainingArguments) -> None:
    latest = checkpoint / "latest"
    _check_present(latest)
    try:
        folder = checkpoint / latest.read_text(encoding="utf-8").strip()
        inside = folder.parent == checkpoint and folder.is_dir()
    except (OSError, ValueError) as error:
        raise damaged_file_error(latest) from error
    if not inside:
        raise damaged_file_error(latest)
    settings = training.deepspeed if isinstance(training.deepspeed, dict) else {}
    stage = settings.get("zero_optimization", {}).get("stage", 0)
    part = f"zero_pp_rank_{training.process_index}_mp_rank_00"
    model = f"{part if stage == 3 else 'mp_rank_00'}_model_states.pt"
    _check_pickle(folder / model, MODEL_STATES_KEY, checkpoint)
    if stage > 0:
        optimizer = folder / f"{part}_optim_states.pt"
        of_bf16 = optimizer.with_name(f"bf16_{optimizer.name}")
        _check_pickle(of_bf16 if of_bf16.is_file() else optimizer, OPTIM_STATES_KEY, checkpoint)


def _check_pickle(file: Path, key: bytes, checkpoint: Path) -> None:
    """Check that a file of `torch.save` has a key, without unpickling it."""
    _check_present(file)
    try:
        with zipfile.ZipFile(file) as archive:
            (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            has_key = key in archive.read(pickled)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise damaged_file_error(file, checkpoint) from error
    if not has_key:
        raise damaged_file_error(file, checkpoint)

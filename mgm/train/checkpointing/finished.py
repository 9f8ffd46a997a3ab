"""Restart of a finished run: the saved model is kept, or copied from the last checkpoint."""

import filecmp
import logging
import shutil
from pathlib import Path
from typing import Any

from mgm.data.processing_mgm import MGMProcessor
from mgm.errors import MGMError
from mgm.model.checkpoint.base_models import base_name
from mgm.model.checkpoint.saved_files import model_files, processor_files, replace_model
from mgm.model.files.json_file import read_json
from mgm.train.args.arguments import TrainingArguments
from mgm.train.checkpointing.checkpoints import STATE_FILE
from mgm.train.checkpointing.resume_files import read_trainer_state

logger = logging.getLogger(__name__)


def has_all_steps(checkpoint: Path, training: TrainingArguments) -> bool:
    """Whether a checkpoint has all steps of the run, judged by flags and its trainer state.

    A changed `--num_train_epochs` is not seen here: the number of steps depends on the data.
    """
    state = read_trainer_state(checkpoint)
    steps = training.max_steps if training.max_steps > 0 else state.max_steps
    return state.global_step >= steps


def save_from_checkpoint(
    checkpoint: Path, output: Path, processor: MGMProcessor, adapter: Any = None
) -> None:
    """Copy the model of the run's last checkpoint into the output folder, unless it is there.

    Copied, not saved again: the weights stay byte by byte those that training saved, in the
    precision of DeepSpeed's engine, of which there is none without a step.

    Args:
        checkpoint: checkpoint of the last step.
        output: the run's folder.
        processor: processor of the run.
        adapter: peft's config, where an adapter is trained.

    Raises:
        MGMError: the model could not be written.
    """
    # An adapter's config has the path of its base, which may have been moved since.
    moved = adapter is not None and base_name(checkpoint) != adapter.base_model_name_or_path
    if not moved and _holds_result(output, checkpoint):
        logger.info("%s already has the trained model", output)
        return
    with replace_model(output) as part:
        processor.save_pretrained(part)
        for name in (*model_files(checkpoint), STATE_FILE):
            shutil.copyfile(checkpoint / name, part / name)
        if moved:
            adapter.save_pretrained(part)
    logger.info("saved %s", output)


def _holds_result(output: Path, checkpoint: Path) -> bool:
    """Whether the output folder has the checkpoint's model, with processor and state."""
    names = model_files(checkpoint)
    if model_files(output) != names or processor_files(output) != processor_files(checkpoint):
        return False
    try:
        step = read_json(output / STATE_FILE).get("global_step")
    except MGMError:
        return False
    if step != read_trainer_state(checkpoint).global_step:
        return False
    return all(filecmp.cmp(checkpoint / name, output / name, shallow=False) for name in names)

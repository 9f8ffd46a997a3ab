"""What decides the order of samples and steps, so that a resumed run goes on exactly."""

import json
from collections.abc import Sized
from math import ceil
from pathlib import Path
from typing import Any, cast

from torch.utils.data import Dataset
from transformers import TrainerState

from mgm.data.datasets.streaming import StreamedDataset
from mgm.data.images.orientation import STORED
from mgm.errors import MGMError
from mgm.model.files.json_file import read_json
from mgm.train.args.arguments import TrainingArguments

FILE = "run.json"
FLAGS = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "group_by_modality_length",
    "seed",
    "data_seed",
    "lora_enable",
    "packing",
    "group_by_length",
)


def facts_of(arguments: TrainingArguments, dataset: Dataset) -> dict[str, Any]:
    """Flags and figures that a resumed run has to have in common with the one before."""
    flags = {f"--{name}": getattr(arguments, name) for name in FLAGS}
    items = dataset.names if isinstance(dataset, StreamedDataset) else len(cast(Sized, dataset))
    flags |= {"--fsdp": arguments.sharded, "--deepspeed": bool(arguments.deepspeed)}
    flags["--image_orientation"] = getattr(dataset, "orientation", STORED)
    return flags | {"processes": arguments.world_size, "items": items}


def is_finished(state: TrainerState, arguments: TrainingArguments) -> bool:
    """Whether a checkpoint's run had done all its steps; transformers would do one more of them."""
    if arguments.max_steps > 0:
        return state.global_step >= arguments.max_steps
    same = state.num_train_epochs == ceil(arguments.num_train_epochs)
    return same and state.global_step >= state.max_steps


def write_facts(facts: dict[str, Any], folder: Path) -> None:
    """Write them into a checkpoint."""
    (folder / FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def check_facts(facts: dict[str, Any], checkpoint: Path) -> None:
    """Compare them with those of a checkpoint, if it has any.

    Raises:
        MGMError: they differ, so that the run would not see the samples that are left.
    """
    if not (checkpoint / FILE).is_file():
        return
    before = read_json(checkpoint / FILE)
    changed = [
        f"{name} was {before[name]}, is {value}"
        for name, value in facts.items()
        if name in before and before[name] != value
    ]
    if changed:
        raise MGMError(
            f"{checkpoint}: was made by another run ({'; '.join(changed)}); repeat its flags, or "
            "begin anew with another --output_dir"
        )

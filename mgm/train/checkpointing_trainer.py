"""The part of our Trainer that writes and reads checkpoints, and the trained model."""

import json
import logging
import math
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import Trainer, TrainerCallback
from transformers.trainer import SCHEDULER_NAME

from mgm.data.datasets.streaming import StreamedDataset, stream_file
from mgm.data.processing_mgm import MGMProcessor
from mgm.errors import MGMError, one_line
from mgm.model.checkpoint.components import save_stage1
from mgm.model.checkpoint.saved_files import STAGE1_FILE, replace_model
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.train.args.arguments import TrainingArguments
from mgm.train.callbacks.warmup_profile import preserve_rng_state
from mgm.train.checkpointing.checkpoints import (
    STATE_FILE,
    atomic_folder_of_ranks,
    checkpoint_step,
    list_checkpoints,
)
from mgm.train.checkpointing.file_digests import DIGESTS, file_digests
from mgm.train.checkpointing.resume_files import (
    TORCH_LOAD_ERRORS,
    check_resume_files,
    damaged_file_error,
    read_trainer_state,
    rng_file,
)
from mgm.train.checkpointing.run_fingerprint import Fingerprint, write_fingerprint
from mgm.train.checkpointing.schedule import (
    check_optimizer_state,
    describe_schedule_change,
    set_learning_rates,
)
from mgm.train.distributed.fsdp import gather_state_dict, load_optimizer_shard, save_optimizer_shard
from mgm.train.lora.adapter import TrainedAdapter, save_adapter

logger = logging.getLogger(__name__)


class _OnTrainBegin(TrainerCallback):
    """Calls a function when the Trainer is about to take the first step of this run."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Call it: optimizer and schedule of a checkpoint are loaded by now."""
        self.function()


class CheckpointingTrainer(Trainer):
    """transformers' Trainer, but checkpoints appear under their names when they are complete.

    Attributes:
        stage1: whether saving also writes the published stage-1 file.
        adapter: is saved instead of the whole model.
        fingerprint: of the run, which goes into every checkpoint.
        unfinished: where a checkpoint is being written.
    """

    args: TrainingArguments
    model: MGMForConditionalGeneration
    processing_class: MGMProcessor
    stage1: bool = False
    adapter: TrainedAdapter | None = None
    fingerprint: Fingerprint | None = None
    unfinished: Path | None = None

    def train_from(
        self, checkpoint: Path | None, on_begin: Callable[[], None] = lambda: None
    ) -> bool:
        """Train from the beginning, or take the steps that a checkpoint lacks.

        Args:
            checkpoint: to resume from; None: the run starts at step 0.
            on_begin: is called once, when the checkpoint is checked and loaded and before this run
                reads a sample or writes a file: a run that is refused leaves others' files alone.

        Returns:
            Whether there was any step left.

        Raises:
            MGMError: the checkpoint has done more steps than the run is to have, or it trained
                other parameters; or a package that a flag asks for is not installed.
        """
        if checkpoint is None:
            self._take_steps(on_begin)
            return True
        state, steps = read_trainer_state(checkpoint), self.planned_steps()
        if steps < state.global_step:
            flag = "max_steps" if self.args.max_steps > 0 else "num_train_epochs"
            raise MGMError(
                f"--{flag} {getattr(self.args, flag)}: {checkpoint} has done {state.global_step} "
                f"steps, and this run would have {steps}; give more, or another --output_dir"
            )
        if steps != state.max_steps:
            logger.warning("%s", describe_schedule_change(self.args, state, steps))
        if steps == state.global_step:  # transformers would do one more of them
            logger.info("all %d steps were done; nothing is left but saving", steps)
            self.state = state
            on_begin()
            return False
        check_resume_files(checkpoint, self.args, isinstance(self.train_dataset, StreamedDataset))
        try:
            self._take_steps(on_begin, str(checkpoint))
        except ValueError as error:
            if "parameter group" not in str(error):
                raise
            raise MGMError(
                f"{checkpoint}: was made with other flags, which train other parameters; "
                "repeat those, or choose another --output_dir"
            ) from error
        return True

    def _take_steps(self, on_begin: Callable[[], None], checkpoint: str | None = None) -> None:
        callbacks = self.callback_handler.callbacks
        callbacks.insert(0, _OnTrainBegin(on_begin))  # before those that write files of this run
        try:
            self.train(resume_from_checkpoint=checkpoint)
        except ImportError as error:  # of an optimizer or a kernel that a flag asks for
            raise MGMError(f"{one_line(error)}; or pip install -e '.[train]'") from error

    def planned_steps(self) -> int:
        """Optimizer steps of the whole run, those before it was resumed included."""
        if self.args.max_steps > 0:
            return self.args.max_steps
        with preserve_rng_state():
            batches = len(self.get_train_dataloader())
        steps_per_epoch = max(1, math.ceil(batches / self.args.gradient_accumulation_steps))
        return math.ceil(self.args.num_train_epochs * steps_per_epoch)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Nothing: the starting point of a resumed run has the checkpoint's weights already."""

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.args.use_fsdp:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        save_optimizer_shard(cast(torch.optim.Optimizer, self.optimizer), Path(output_dir))
        if self.args.should_save:
            state = cast(LRScheduler, self.lr_scheduler).state_dict()
            torch.save(state, Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        if self.args.use_fsdp:
            load_optimizer_shard(cast(torch.optim.Optimizer, self.optimizer), Path(checkpoint))
            state = torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True)
            cast(LRScheduler, self.lr_scheduler).load_state_dict(state)
        else:
            super()._load_optimizer_and_scheduler(checkpoint)
        if not self.is_deepspeed_enabled:
            check_optimizer_state(cast(torch.optim.Optimizer, self.optimizer), Path(checkpoint))
        set_learning_rates(cast(LRScheduler, self.lr_scheduler))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        try:
            super()._load_rng_state(checkpoint)
        except TORCH_LOAD_ERRORS as error:
            raise damaged_file_error(rng_file(Path(checkpoint), self.args)) from error

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.unfinished or super()._get_output_dir(trial))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint beside its final name, where it appears when it is complete."""
        output = Path(str(self.args.output_dir))
        final = output / f"checkpoint-{self.state.global_step}"
        with atomic_folder_of_ranks(
            final, partial(self._finish_checkpoint, final.name)
        ) as self.unfinished:
            # Others may write there before the first process, which makes it, comes to it.
            (self.unfinished / final.name).mkdir(exist_ok=True)
            try:
                super()._save_checkpoint(model, trial)
                if isinstance(self.train_dataset, StreamedDataset):
                    file = stream_file(self.unfinished, self.args.process_index)
                    file.write_text(json.dumps(self.train_dataset.state), encoding="utf-8")
            finally:
                self.unfinished = None
        limit = self.args.save_total_limit or 0
        if limit > 0 and self.args.process_index == 0:
            own = [
                old
                for old in list_checkpoints(output)
                if checkpoint_step(old) <= self.state.global_step
            ]
            for old in own[:-limit]:
                shutil.rmtree(old)

    def _finish_checkpoint(self, name: str, folder: Path) -> None:
        """Bring what transformers wrote to its place, and what a resumed run is compared with."""
        inner = folder / name
        for file in inner.iterdir():
            file.rename(folder / file.name)
        inner.rmdir()
        if self.fingerprint is not None:
            write_fingerprint(self.fingerprint | {DIGESTS: file_digests(folder)}, folder)

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None
    ) -> None:
        """Write a complete model: weights, configs, processor, tokenizer."""
        folder = Path(str(output_dir or self.args.output_dir))
        if self.args.use_fsdp:  # all of them have to ask
            state_dict = gather_state_dict(self.model)
        if not self.args.should_save:
            return
        if self.unfinished is not None:
            folder.mkdir(parents=True, exist_ok=True)  # other processes write their states there
            self._write_model(folder, state_dict)
            return
        with replace_model(folder) as part:
            self._write_model(part, state_dict)
            self.state.save_to_json(str(part / STATE_FILE))

    def _write_model(self, folder: Path, state_dict: dict[str, Any] | None) -> None:
        self.processing_class.save_pretrained(folder)
        if state_dict is not None:  # DeepSpeed's or FSDP's, in which what is shared comes twice
            owners: dict[int, str] = {}
            for name, tensor in self.model.state_dict(keep_vars=True).items():
                if owners.setdefault(id(tensor), name) != name:
                    state_dict.pop(name, None)
        if self.adapter is not None:
            save_adapter(self.adapter, self.model, folder, state_dict)
            return
        self.model.save_pretrained(folder, state_dict=state_dict)
        if self.stage1:
            save_stage1(self.model, folder / STAGE1_FILE, state_dict)

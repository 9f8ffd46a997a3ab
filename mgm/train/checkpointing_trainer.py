"""Trainer that writes checkpoints atomically, resumes from them, and saves the trained model."""

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
from mgm.train.distributed.deepspeed_start import deepspeed_errors
from mgm.train.distributed.fsdp import gather_state_dict, load_optimizer_shard, save_optimizer_shard
from mgm.train.lora.adapter import TrainedAdapter, save_adapter

logger = logging.getLogger(__name__)


class _OnTrainBegin(TrainerCallback):
    """Calls a function once, before the first step of this process.

    Model, optimizer and schedule are built by then, and a checkpoint is loaded.
    """

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function
        self.called = False

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Call the function before the first step."""
        self.called = True
        self.function()


class CheckpointingTrainer(Trainer):
    """transformers' Trainer with atomic checkpoints and checked resumes.

    A checkpoint is written into a staging directory, which gets its name when it is complete.

    Attributes:
        stage1: whether saving also writes the published stage-1 file.
        adapter: the LoRA that is saved in place of the whole model, if one is trained.
        fingerprint: fingerprint of the run; written into every checkpoint.
        staging_dir: staging directory of the checkpoint that is being written, if any.
    """

    args: TrainingArguments
    model: MGMForConditionalGeneration
    processing_class: MGMProcessor
    stage1: bool = False
    adapter: TrainedAdapter | None = None
    fingerprint: Fingerprint | None = None
    staging_dir: Path | None = None

    def train_from(
        self, checkpoint: Path | None, on_begin: Callable[[], None] = lambda: None
    ) -> bool:
        """Train from step 0, or from the step of a checkpoint.

        Args:
            checkpoint: checkpoint to resume from; None: the run starts at step 0.
            on_begin: is called once, when the checkpoint is checked and loaded and before this run
                reads a sample or writes a file, so that a refused run changes no files.

        Returns:
            Whether any step was left to train.

        Raises:
            MGMError: the checkpoint has more steps than the run is to have, or it trained other
                parameters; or a package that a flag needs is not installed.
        """
        if checkpoint is None:
            self._train_steps(on_begin)
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
        if steps == state.global_step:  # transformers would train one more
            logger.info("all %d steps are done; only the model is left to save", steps)
            self.state = state
            on_begin()
            return False
        streaming = isinstance(self.train_dataset, StreamedDataset)
        check_resume_files(checkpoint, self.args, streaming)
        try:
            self._train_steps(on_begin, checkpoint)
        except ValueError as error:
            if "parameter group" not in str(error):
                raise
            raise MGMError(
                f"{checkpoint}: was made with other flags, which train other parameters; "
                "repeat those, or choose another --output_dir"
            ) from error
        return True

    def _train_steps(self, on_begin: Callable[[], None], checkpoint: Path | None = None) -> None:
        def begin() -> None:
            if checkpoint is not None:
                self._restore_optimizer(checkpoint)
            on_begin()

        started = _OnTrainBegin(begin)
        # First, before callbacks that write files of this run.
        self.callback_handler.callbacks.insert(0, started)
        try:
            with deepspeed_errors(lambda: self.is_deepspeed_enabled and not started.called):
                self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        except ImportError as error:  # missing package of an optimizer or a kernel
            raise MGMError(f"{one_line(error)}; or pip install -e '.[train]'") from error

    def planned_steps(self) -> int:
        """Optimizer steps of the whole run, those before it was resumed included."""
        if self.args.max_steps > 0:
            return self.args.max_steps
        with preserve_rng_state():
            batches = len(self.get_train_dataloader())
        steps_per_epoch = max(1, math.ceil(batches / self.args.gradient_accumulation_steps))
        return math.ceil(self.args.num_train_epochs * steps_per_epoch)

    def _restore_optimizer(self, checkpoint: Path) -> None:
        """Load FSDP2's shards, which transformers does not know; check what is loaded."""
        optimizer = cast(torch.optim.Optimizer, self.optimizer)
        schedule = cast(LRScheduler, self.lr_scheduler)
        if self.args.use_fsdp:
            load_optimizer_shard(optimizer, checkpoint)
            schedule.load_state_dict(torch.load(checkpoint / SCHEDULER_NAME, weights_only=True))
        if not self.is_deepspeed_enabled:
            check_optimizer_state(optimizer, checkpoint)
        set_learning_rates(schedule)

    # Private: no flag or hook keeps transformers from reading the checkpoint's weights again.
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Does nothing: `build_model_and_processor` has loaded the checkpoint's weights already."""

    # Private: transformers would write all of FSDP2's moments from rank 0 only.
    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.args.use_fsdp:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        save_optimizer_shard(cast(torch.optim.Optimizer, self.optimizer), Path(output_dir))
        if self.args.should_save:
            state = cast(LRScheduler, self.lr_scheduler).state_dict()
            torch.save(state, Path(output_dir) / SCHEDULER_NAME)

    # Private: the errors of a damaged file do not name it, and no hook is called around this.
    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        try:
            super()._load_rng_state(checkpoint)
        except TORCH_LOAD_ERRORS as error:
            raise damaged_file_error(rng_file(Path(checkpoint), self.args)) from error

    # Private: `on_save` is called after it, when a checkpoint already has its name.
    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint into a staging directory, which is renamed when it is complete."""
        output_dir = self.args.output_dir
        output = Path(str(output_dir))
        name = f"checkpoint-{self.state.global_step}"
        finish = partial(self._finish_checkpoint, name)
        with atomic_folder_of_ranks(output / name, finish) as self.staging_dir:
            # Other ranks may write there before rank 0 creates it.
            (self.staging_dir / name).mkdir(exist_ok=True)
            self.args.output_dir = str(self.staging_dir)
            try:
                super()._save_checkpoint(model, trial)
                if isinstance(self.train_dataset, StreamedDataset):
                    file = stream_file(self.staging_dir, self.args.process_index)
                    file.write_text(json.dumps(self.train_dataset.state), encoding="utf-8")
            finally:
                self.args.output_dir, self.staging_dir = output_dir, None
        limit = self.args.save_total_limit or 0
        if limit > 0 and self.args.process_index == 0:
            step = self.state.global_step
            own = [old for old in list_checkpoints(output) if checkpoint_step(old) <= step]
            for old in own[:-limit]:
                shutil.rmtree(old)

    def _finish_checkpoint(self, name: str, folder: Path) -> None:
        """Move what transformers wrote one level up, and add the fingerprint of the run."""
        inner = folder / name
        for file in inner.iterdir():
            file.rename(folder / file.name)
        inner.rmdir()
        if self.fingerprint is not None:
            write_fingerprint(self.fingerprint | {DIGESTS: file_digests(folder)}, folder)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write a complete model: weights, configs, processor, tokenizer.

        All processes have to call it.

        Args:
            output_dir: the folder; None: that of the run.
            _internal_call: transformers', for its hub; has no effect.
        """
        folder = Path(str(output_dir or self.args.output_dir))
        state_dict = None
        if self.args.use_fsdp:
            state_dict = gather_state_dict(self.model)
        elif self.is_deepspeed_enabled:
            state_dict = self.accelerator.get_state_dict(self.deepspeed)
        if not self.args.should_save:
            return
        if self.staging_dir is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._write_model(folder, state_dict)
            return
        with replace_model(folder) as part:
            self._write_model(part, state_dict)
            self.state.save_to_json(str(part / STATE_FILE))

    def _write_model(self, folder: Path, state_dict: dict[str, Any] | None) -> None:
        self.processing_class.save_pretrained(folder)
        if state_dict is not None:  # DeepSpeed's or FSDP's, which has tied weights twice
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

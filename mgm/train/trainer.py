"""transformers' Trainer with our order of samples, groups of parameters, and saving."""

import shutil
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import Dataset, Sampler
from transformers import PrinterCallback, ProgressCallback, Trainer

from mgm.atomic import atomic_folder
from mgm.data.processor import MGMProcessor
from mgm.errors import MGMError, one_line
from mgm.model.mgm import MGMForConditionalGeneration
from mgm.model.parts import STAGE1_FILE, save_stage1
from mgm.train.arguments import TrainingArguments
from mgm.train.checkpoints import STATE_FILE, checkpoints, complete_files
from mgm.train.dataset import TrainingDataset
from mgm.train.parameter_groups import parameter_groups
from mgm.train.progress import Progress
from mgm.train.sampler import ModalitySampler


class MGMTrainer(Trainer):
    """Trains a Mini-Gemini.

    Args:
        stage1: whether saving also writes the published stage-1 file.
        **kwargs: as for `transformers.Trainer`.
    """

    args: TrainingArguments
    model: MGMForConditionalGeneration
    processing_class: MGMProcessor

    def __init__(self, stage1: bool = False, **kwargs: Any) -> None:
        model, args = kwargs["model"], kwargs["args"]
        if args.use_liger_kernel:  # of which transformers' own call knows no model of our type
            model.use_liger_kernel(**(args.liger_kernel_config or {}))
        super().__init__(**kwargs)
        self.stage1 = stage1
        self.unfinished: Path | None = None  # where a checkpoint is being written
        self.progress = Progress()
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        self.add_callback(self.progress)
        # The Trainer notes there that training needs no cache, which is no fact about the model.
        vars(self.model.config).pop("use_cache", None)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        if not self.args.group_by_modality_length:
            return super()._get_train_sampler(train_dataset)
        dataset = cast(TrainingDataset, train_dataset or self.train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return ModalitySampler(
            dataset.modality_lengths,
            self.args.train_batch_size,
            self.args.world_size * self.args.gradient_accumulation_steps,
            seed,
            dataset.path,
        )

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """An optimizer over our groups of parameters.

        Raises:
            MGMError: the optimizer that a flag asks for makes other groups, or refuses a number.
        """
        if self.optimizer is None:
            model = self.model if model is None else model
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            if {"params", "model", "optimizer_dict"} & set(options):
                raise MGMError(
                    f"--optim {self.args.optim}: makes parameter groups of its own; "
                    "choose another, for instance adamw_torch"
                )
            decayed = set(self.get_decay_parameter_names(model))
            groups = parameter_groups(model, decayed, self.args)
            try:
                self.optimizer = kind(groups, **options)
            except ValueError as error:  # of a number that it does not take
                raise MGMError(f"--optim {self.args.optim}: {one_line(error)}") from error
        return self.optimizer

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Nothing: the starting point of a resumed run has the checkpoint's weights already."""

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.unfinished or super()._get_output_dir(trial))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint beside its final name, where it appears when it is complete."""
        output = Path(str(self.args.output_dir))
        final = output / f"checkpoint-{self.state.global_step}"
        with atomic_folder(final) as self.unfinished:
            try:
                super()._save_checkpoint(model, trial)
                inner = self.unfinished / final.name
                for file in inner.iterdir():
                    file.rename(self.unfinished / file.name)
                inner.rmdir()
            finally:
                self.unfinished = None
        limit = self.args.save_total_limit or 0
        if limit > 0:
            for old in checkpoints(output)[:-limit]:
                shutil.rmtree(old)

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None
    ) -> None:
        """Write a complete model: weights, configs, processor, tokenizer."""
        folder = Path(str(output_dir or self.args.output_dir))
        if not self.args.should_save:
            return
        if self.unfinished is not None:
            folder.mkdir(parents=True)
            self._write_model(folder, state_dict)
            return
        with complete_files(folder) as part:
            self._write_model(part, state_dict)
            self.state.save_to_json(str(part / STATE_FILE))

    def _write_model(self, folder: Path, state_dict: dict[str, Any] | None) -> None:
        self.processing_class.save_pretrained(folder)
        self.model.save_pretrained(folder, state_dict=state_dict)
        if self.stage1:
            save_stage1(self.model, folder / STAGE1_FILE)

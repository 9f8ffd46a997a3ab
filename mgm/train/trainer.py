"""transformers' Trainer with our order of samples, groups of parameters, losses and figures."""

import logging
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import PrinterCallback, ProgressCallback

from mgm.data.datasets.collator import count_tokens
from mgm.data.datasets.conversation_dataset import TrainingDataset
from mgm.data.datasets.samplers import LengthSampler, ModalitySampler
from mgm.data.datasets.streaming import StreamedDataset
from mgm.data.processing_mgm import MGMProcessor
from mgm.errors import MGMError, one_line
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.train.args.arguments import TrainingArguments
from mgm.train.callbacks.dataset_losses import DatasetLosses
from mgm.train.callbacks.loss_plot import LossPlotCallback
from mgm.train.callbacks.progress import Progress
from mgm.train.callbacks.validation import ValidationSet
from mgm.train.callbacks.warmup_profile import preserve_rng_state
from mgm.train.checkpointing.checkpoints import (
    list_checkpoints,
)
from mgm.train.checkpointing.run_fingerprint import Fingerprint
from mgm.train.checkpointing_trainer import CheckpointingTrainer
from mgm.train.distributed.deepspeed_start import deepspeed_errors
from mgm.train.distributed.fsdp import (
    delay_reduction,
    shard,
)
from mgm.train.distributed.zero3 import divide
from mgm.train.estimate.flops import FlopsCounter, device_peak_flops
from mgm.train.lora.adapter import TrainedAdapter
from mgm.train.optim.activation_checkpointing import enable, selective_checkpoint_kwargs
from mgm.train.optim.param_groups import parameter_groups

logger = logging.getLogger(__name__)


class MGMTrainer(CheckpointingTrainer):
    """Trains a Mini-Gemini.

    Args:
        stage1: whether saving also writes the published stage-1 file.
        adapter: is saved instead of the whole model.
        hold_out: what the run is measured on when `eval_strategy` says so.
        fingerprint: of the run, which goes into every checkpoint.
        **kwargs: as for `transformers.Trainer`.
    """

    args: TrainingArguments
    model: MGMForConditionalGeneration
    processing_class: MGMProcessor

    def __init__(
        self,
        stage1: bool = False,
        adapter: TrainedAdapter | None = None,
        validation_set: ValidationSet | None = None,
        fingerprint: Fingerprint | None = None,
        **kwargs: Any,
    ) -> None:
        model, args = kwargs["model"], kwargs["args"]
        if args.use_liger_kernel:  # of which transformers' own call knows no model of our type
            model.use_liger_kernel(**(args.liger_kernel_config or {}))
        if args.use_fsdp:
            shard(model, args.device, args.bf16)
        super().__init__(
            **kwargs, eval_dataset=None if validation_set is None else validation_set.samples
        )
        self.validation_set = validation_set
        # What transformers says of models that it sharded itself: they are not to be wrapped.
        self.is_distributed_loading_by_transformers = args.use_fsdp
        self.model._is_fsdp_managed_module = args.use_fsdp
        self.model.dummy_image_for_text_batches = self.is_deepspeed_enabled or args.use_fsdp
        self.stage1 = stage1
        self.adapter = adapter
        self.fingerprint = fingerprint
        self.tokens: Tensor | int = 0  # of all samples since `self.since`
        self.samples, self.images, self.since = 0, 0, time.perf_counter()
        self.peak = device_peak_flops()
        self.work = None if self.peak is None else FlopsCounter(self.model)
        self.dataset_losses = DatasetLosses(getattr(self.train_dataset, "source_names", ()))
        self.steps_with_loss, self.steps_without_loss = 0, 0  # with labels, and without any
        self.places: list[int] = []  # in the data file, of the samples of this step
        self.progress = Progress()
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        self.add_callback(self.progress)
        self.add_callback(LossPlotCallback())
        # The Trainer notes there that training needs no cache, which is no fact about the model.
        vars(self.model.config).pop("use_cache", None)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        dataset = cast(TrainingDataset, train_dataset or self.train_dataset)
        seed = self.args.order_seed
        if self.args.group_by_length:
            limit = self.model.config.model_max_length
            lengths = [min(length, limit or length) for length in dataset.lengths]
            devices = self.args.world_size * self.args.gradient_accumulation_steps
            step_size = self.args.train_batch_size * devices
            return LengthSampler(lengths, (dataset.image_counts > 0).tolist(), step_size, seed)
        if self.args.packing or not self.args.group_by_modality_length:
            return super()._get_train_sampler(train_dataset)
        return ModalitySampler(
            dataset.modality_lengths,
            self.args.train_batch_size,
            self.args.world_size * self.args.gradient_accumulation_steps,
            seed,
            dataset.path,
        )

    def train_sampler(self) -> Sampler:
        """The order of the training samples."""
        return cast(Sampler, self._get_train_sampler())

    def prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """A batch on the device of the run."""
        return self._prepare_inputs(inputs)

    def get_train_dataloader(self) -> DataLoader:
        """As transformers', but of a stream every process reads its own part."""
        args = self.args
        if not isinstance(self.train_dataset, StreamedDataset):
            return super().get_train_dataloader()
        return DataLoader(
            self.train_dataset,
            batch_size=args.train_batch_size,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            pin_memory=args.dataloader_pin_memory,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            # Or it would draw from the random numbers of the run, and a resumed one once more.
            generator=torch.Generator().manual_seed(args.seed),
        )

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers'; under ZeRO-3 the weights are divided first."""
        if self.args.is_zero3 and self.args.loads_on_rank0 and self.args.world_size > 1:
            settings: Any = self.args.hf_deepspeed_config
            divide(self.model, settings.config, self.args.device, settings.dtype())
        return super().train(*args, **kwargs)

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

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """As transformers', but a loss that is no number ends the run before it is learned from.

        Raises:
            MGMError: says which samples were in the step.
        """
        places = inputs.pop("index").tolist()
        cursor = inputs.pop("cursor", None)
        if cursor is not None:
            cast(StreamedDataset, self.train_dataset).note(cursor)
        self.places += places
        self.samples += len(places)
        self.tokens += count_tokens(inputs)
        self.images += len(inputs.get("pixel_values_aux", ()))
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            last = list_checkpoints(Path(str(self.args.output_dir)))[-1:]
            good = (
                f"{last[0]} is the last good checkpoint" if last else "there is no checkpoint yet"
            )
            label = cast(TrainingDataset, self.train_dataset).label
            named = ", ".join(map(label, self.places))
            raise MGMError(
                f"step {self.state.global_step + 1}: the loss is {loss.item()}; samples of the "
                f"step: {named}; {good}; look at these samples with python -m mgm.data.doctor, or "
                "train with a smaller --learning_rate"
            )
        if self.accelerator.sync_gradients:
            self.places = []
            self._count_step(num_items_in_batch)
        return loss

    def _count_step(self, labels: Any) -> None:
        """Have a step that no process has a label for leave the weights as they are, and say so.

        Raises:
            MGMError: all samples turned out to be bad.
        """
        if labels is None or int(labels):
            self.steps_with_loss += 1
            return
        self.steps_without_loss += 1
        cast(TrainingDataset, self.train_dataset).check_usable()
        # DeepSpeed has made its step, and a scaler of gradients wants some. Where the count is not
        # that of all processes, others may have gradients.
        counted = self.args.world_size == 1 or self.args.average_tokens_across_devices
        if counted and not self.is_deepspeed_enabled and self.accelerator.scaler is None:
            self.model.zero_grad()  # to None: optimizers pass over such parameters
        if self.steps_without_loss == 1:
            logger.warning(
                "step %d: none of its samples could be used, nothing is learned from it; more of "
                "these are only counted",
                self.state.global_step + 1,
            )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """As transformers'; what each data source has of it is counted."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            self.dataset_losses.add(outputs.get("group_losses"))
        return (loss, outputs) if return_outputs else loss

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: Any = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Measure the hold-out; the run goes on as if it had not been."""
        if self.validation_set is None:
            raise MGMError("there is no hold-out to measure; give --eval_data_path")
        begun = time.perf_counter()
        self.model.eval()
        with preserve_rng_state(), self.compute_loss_context_manager():
            metrics = self.validation_set.measure(self)
        self.model.train()
        self.since += time.perf_counter() - begun  # it is no time of training
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As transformers', with the speed since the last report and the loss of each source."""
        if "loss" in logs:
            logs |= self.dataset_losses.take(self.args.device)
            seconds, tokens = time.perf_counter() - self.since, int(self.tokens)
            for name, count in (("tokens", tokens), ("samples", self.samples)):
                logs[f"{name}_per_second"] = count * self.args.world_size / seconds
            if self.peak is not None and self.work is not None:
                done = self.work.operations(self.samples, self.images, tokens)
                logs["mfu"] = done / (seconds * self.peak[1])
            self.tokens, self.samples, self.images = 0, 0, 0
            self.since = time.perf_counter()
        super().log(logs, start_time)

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        if self.args.selective_checkpointing:
            enable(self.model, selective_checkpoint_kwargs())
        with deepspeed_errors(self.is_deepspeed_enabled):
            return super()._prepare_for_training(*args, **kwargs)

    @contextmanager
    def _defer_fsdp_gradient_reduction(self) -> Generator[None]:
        delay_reduction(self.model, True)
        try:
            yield
        finally:
            delay_reduction(self.model, False)

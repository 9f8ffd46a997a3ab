"""Mini-Gemini's Trainer: samplers, parameter groups, losses by data set, throughput and MFU."""

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
from mgm.data.datasets.samplers import LengthSampler, ModalitySampler
from mgm.data.datasets.streaming import StreamedDataset
from mgm.data.datasets.training_dataset import TrainingDataset
from mgm.data.processing_mgm import MGMProcessor
from mgm.errors import MGMError, one_line
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.train.args.arguments import TrainingArguments
from mgm.train.callbacks.dataset_losses import DatasetLosses
from mgm.train.callbacks.loss_plot import LossPlotCallback
from mgm.train.callbacks.progress import ProgressBarCallback
from mgm.train.callbacks.validation import ValidationSet
from mgm.train.callbacks.warmup_profile import preserve_rng_state
from mgm.train.checkpointing.checkpoints import (
    list_checkpoints,
)
from mgm.train.checkpointing.run_fingerprint import Fingerprint
from mgm.train.checkpointing_trainer import CheckpointingTrainer
from mgm.train.distributed.fsdp import (
    apply_fsdp,
    set_gradient_sync,
)
from mgm.train.distributed.zero3 import partition_parameters
from mgm.train.estimate.flops import FlopsCounter, device_peak_flops
from mgm.train.lora.adapter import TrainedAdapter
from mgm.train.optim.activation_checkpointing import SelectiveCheckpointing
from mgm.train.optim.param_groups import parameter_groups

logger = logging.getLogger(__name__)


class MGMTrainer(CheckpointingTrainer):
    """Trains a Mini-Gemini.

    Args:
        stage1: whether saving also writes the published stage-1 file.
        adapter: the LoRA that is saved in place of the whole model, if one is trained.
        validation_set: is evaluated when `eval_strategy` says so.
        fingerprint: fingerprint of the run; written into every checkpoint.
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
        if args.use_liger_kernel:  # transformers' own call knows no model of our type
            model.use_liger_kernel(**(args.liger_kernel_config or {}))
        if args.use_fsdp:
            apply_fsdp(model, args.device, args.bf16)
        super().__init__(
            **kwargs, eval_dataset=None if validation_set is None else validation_set.samples
        )
        self.validation_set = validation_set
        # As for models that transformers sharded when it loaded them: not to be wrapped in DDP.
        self.is_distributed_loading_by_transformers = args.use_fsdp
        self.model.dummy_image_for_text_batches = self.is_deepspeed_enabled or args.use_fsdp
        self.stage1 = stage1
        self.adapter = adapter
        self.fingerprint = fingerprint
        self.throughput_start = time.perf_counter()
        self.tokens: Tensor | int = 0  # counted since `throughput_start`, like samples and images
        self.samples, self.images = 0, 0
        self.device_peak = device_peak_flops()
        self.flops = None if self.device_peak is None else FlopsCounter(self.model)
        self.dataset_losses = DatasetLosses(getattr(self.train_dataset, "source_names", ()))
        self.steps_with_loss, self.steps_without_loss = 0, 0  # steps with and without any label
        self.step_indices: list[int] = []  # indices of this step's samples in the data file
        self.progress = ProgressBarCallback()
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        self.add_callback(self.progress)
        self.add_callback(LossPlotCallback())
        if args.selective_checkpointing:
            self.add_callback(SelectiveCheckpointing())
        # Trainer sets it to False, which would be saved and disable the KV cache in generation.
        vars(self.model.config).pop("use_cache", None)

    # Private: `get_train_dataloader` would have to repeat all else that transformers does there.
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
        """Yields the indices of the training samples in their order."""
        return cast(Sampler, self._get_train_sampler())

    def prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Move a batch to the device of the run."""
        return self._prepare_inputs(inputs)  # private: also casts to the dtype of DeepSpeed

    def get_train_dataloader(self) -> DataLoader:
        """transformers' DataLoader, except that each process reads its own shards of a stream."""
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
            # Without it the loader would consume random numbers of the training, and again when it
            # is resumed.
            generator=torch.Generator().manual_seed(args.seed),
        )

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as transformers does; under ZeRO-3, partition the weights of rank 0 first."""
        if self.args.is_zero3 and self.args.loads_on_rank0 and self.args.world_size > 1:
            settings: Any = self.args.hf_deepspeed_config
            partition_parameters(self.model, settings.config, self.args.device, settings.dtype())
        return super().train(*args, **kwargs)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer, with the groups of `parameter_groups`.

        Raises:
            MGMError: the optimizer of `--optim` makes its own groups, or rejects a value.
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
            except ValueError as error:  # invalid value
                raise MGMError(f"--optim {self.args.optim}: {one_line(error)}") from error
        return self.optimizer

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """transformers' training step; counts tokens, and stops the run at a NaN or infinite loss.

        Raises:
            MGMError: the loss is not finite; names the samples of the step.
        """
        indices = inputs.pop("index").tolist()
        cursor = inputs.pop("cursor", None)
        if cursor is not None:
            cast(StreamedDataset, self.train_dataset).record_cursor(cursor)
        self.step_indices += indices
        self.samples += len(indices)
        self.tokens += count_tokens(inputs)
        self.images += len(inputs.get("pixel_values_aux", ()))
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            raise self._not_finite(loss)
        if self.accelerator.sync_gradients:
            self.step_indices = []
            self._count_step(num_items_in_batch)
        return loss

    def _not_finite(self, loss: Tensor) -> MGMError:
        last = list_checkpoints(Path(str(self.args.output_dir)))[-1:]
        good = f"{last[0]} is the last good checkpoint" if last else "there is no checkpoint yet"
        label = cast(TrainingDataset, self.train_dataset).label
        return MGMError(
            f"step {self.state.global_step + 1}: the loss is {loss.item()}; samples of the step: "
            f"{', '.join(map(label, self.step_indices))}; {good}; check these samples with "
            "python -m mgm.data.doctor, or train with a smaller --learning_rate"
        )

    def _count_step(self, labels: Any) -> None:
        """Count the step; one without any label on any process leaves the weights unchanged.

        Args:
            labels: number of labels in the step.

        Raises:
            MGMError: all samples turned out to be bad.
        """
        if labels is None or int(labels):
            self.steps_with_loss += 1
            return
        self.steps_without_loss += 1
        cast(TrainingDataset, self.train_dataset).check_usable()
        # DeepSpeed has stepped already, and a gradient scaler needs gradients. Where labels are not
        # counted over all processes, others may have gradients.
        counted = self.args.world_size == 1 or self.args.average_tokens_across_devices
        if counted and not self.is_deepspeed_enabled and self.accelerator.scaler is None:
            self.model.zero_grad()  # set to None: optimizers skip such parameters
        if self.steps_without_loss == 1:
            logger.warning(
                "step %d: none of its samples is usable, so it changes no weights; later ones are "
                "only counted",
                self.state.global_step + 1,
            )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of transformers; also accumulates the loss of each data set."""
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
        """Evaluate the validation set, without an effect on the random state of training."""
        if self.validation_set is None:
            raise MGMError("there is no validation set; give --eval_data_path")
        start_time = time.perf_counter()
        self.model.eval()
        with preserve_rng_state(), self.compute_loss_context_manager():
            metrics = self.validation_set.evaluate(self)
        self.model.train()
        self.throughput_start += time.perf_counter() - start_time  # not training time
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log metrics, with throughput, MFU and losses by data set since the last log."""
        if "loss" in logs:
            logs |= self.dataset_losses.take(self.args.device)
            seconds, tokens = time.perf_counter() - self.throughput_start, int(self.tokens)
            for name, count in (("tokens", tokens), ("samples", self.samples)):
                logs[f"{name}_per_second"] = count * self.args.world_size / seconds
            if self.device_peak is not None and self.flops is not None:
                flops = self.flops.training_flops(self.samples, self.images, tokens)
                logs["mfu"] = flops / (seconds * self.device_peak[1])
            self.tokens, self.samples, self.images = 0, 0, 0
            self.throughput_start = time.perf_counter()
        super().log(logs, start_time)

    # Private: transformers' own needs the config of a model that it sharded itself.
    @contextmanager
    def _defer_fsdp_gradient_reduction(self) -> Generator[None]:
        set_gradient_sync(self.model, False)
        try:
            yield
        finally:
            set_gradient_sync(self.model, True)

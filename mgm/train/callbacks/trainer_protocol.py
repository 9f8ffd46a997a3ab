"""Protocol of the trainer as callbacks use it, which spares them the import of the trainer."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import TrainerCallback

from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.train.args.arguments import TrainingArguments
from mgm.train.callbacks.dataset_losses import DatasetLosses


class TrainerProtocol(Protocol):
    """The interface of `mgm.train.trainer.MGMTrainer` that callbacks use.

    Attributes:
        args: the training arguments.
        model: the unwrapped model.
        model_wrapped: the model as DeepSpeed or DDP wraps it.
        is_deepspeed_enabled: whether DeepSpeed trains it.
        throughput_start: `time.perf_counter()` since which tokens per second are counted.
        data_collator: makes batches of samples.
        train_dataset: the samples, by index.
        dataset_losses: accumulates the loss of each data set.
    """

    args: TrainingArguments
    model: MGMForConditionalGeneration
    model_wrapped: nn.Module | None
    is_deepspeed_enabled: bool
    throughput_start: float
    data_collator: Any
    train_dataset: Any
    dataset_losses: DatasetLosses

    def train_sampler(self) -> Iterable[int]:
        """The order of the training samples."""
        ...

    def compute_loss_context_manager(self) -> AbstractContextManager[Any]:
        """The context manager of the forward pass, such as automatic mixed precision."""
        ...

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of a batch."""
        ...

    def prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """Bring a batch to the device of the run."""
        ...

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Report metrics, at the current step."""
        ...

    def add_callback(self, callback: TrainerCallback) -> None:
        """Have a callback called from now on."""
        ...

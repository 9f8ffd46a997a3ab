"""What callbacks use of the trainer, so that they need not import it."""

from typing import Any, Protocol

from torch import Tensor, nn
from transformers import TrainerCallback

from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.train.args.arguments import TrainingArguments


class RunningTrainer(Protocol):
    """The part of `mgm.train.trainer.MGMTrainer` that callbacks use.

    Attributes:
        args: the flags of the run.
        model: that is trained.
        model_wrapped: the same as DeepSpeed or DDP wraps it.
        is_deepspeed_enabled: whether DeepSpeed runs it.
        since: `time.perf_counter()` from which the speed of training is counted.
    """

    args: TrainingArguments
    model: MGMForConditionalGeneration
    model_wrapped: nn.Module | None
    is_deepspeed_enabled: bool
    since: float

    def prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """Bring a batch to the device of the run."""
        ...

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Report metrics, at the current step."""
        ...

    def add_callback(self, callback: TrainerCallback) -> None:
        """Have a callback called from now on."""
        ...

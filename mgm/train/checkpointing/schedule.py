"""Learning rate schedule and optimizer state of a resumed run."""

from pathlib import Path
from typing import Any, cast

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import TrainerState, get_scheduler
from transformers.trainer import OPTIMIZER_NAME

from mgm.train.args.arguments import TrainingArguments
from mgm.train.checkpointing.resume_files import damaged_file_error

MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer")  # shaped like their parameter


def describe_schedule_change(arguments: TrainingArguments, state: TrainerState, steps: int) -> str:
    """Describe how a changed number of steps changes the learning rate.

    Args:
        arguments: the flags.
        state: state of the checkpoint.
        steps: total steps of the resumed run.
    """
    text = f"the run has {steps} steps now, and had {state.max_steps} before"
    before = _learning_rate(arguments, state.global_step, state.max_steps)
    now = _learning_rate(arguments, state.global_step, steps)
    if before is None or now is None or steps == state.global_step:
        return text
    name = getattr(arguments.lr_scheduler_type, "value", arguments.lr_scheduler_type)
    at = f"at step {state.global_step + 1} the learning rate is {now:.3g}"
    if before == now:
        return f"{text}; {at}, as it would have been"
    return (
        f"{text}: the schedule {name!r} is recomputed for {steps} steps; {at}, and would have "
        f"been {before:.3g}"
    )


def _learning_rate(arguments: TrainingArguments, step: int, steps: int) -> float | None:
    """The learning rate of a step; None: the schedule depends on more than steps."""
    if isinstance(arguments.deepspeed, dict) and "scheduler" in arguments.deepspeed:
        return None
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=arguments.learning_rate)
    schedule = get_scheduler(
        arguments.lr_scheduler_type,
        optimizer,
        arguments.get_warmup_steps(steps),
        steps,
        cast(dict[str, Any], arguments.lr_scheduler_kwargs or {}),
    )
    if not isinstance(schedule, LambdaLR):
        return None
    return arguments.learning_rate * schedule.lr_lambdas[0](step)


def set_learning_rates(schedule: LRScheduler) -> None:
    """Set the optimizer's learning rates to those of the schedule.

    The loaded optimizer has the rates of the checkpoint's schedule, which may have another length.
    """
    if not isinstance(schedule, LambdaLR):
        return
    factors = [factor(schedule.last_epoch) for factor in schedule.lr_lambdas]
    rates = [base * factor for base, factor in zip(schedule.base_lrs, factors, strict=True)]
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    schedule.load_state_dict(schedule.state_dict() | {"_last_lr": rates})  # logged learning rate


def check_optimizer_state(optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
    """Check that loaded moments have the shapes of their parameters.

    Raises:
        MGMError: one has another shape.
    """
    optimizer = getattr(optimizer, "optimizer", optimizer)  # unwrap accelerate's
    for parameter, state in optimizer.state.items():
        for name in MOMENTS:
            if name in state and state[name].shape != parameter.shape:
                raise damaged_file_error(checkpoint / OPTIMIZER_NAME)

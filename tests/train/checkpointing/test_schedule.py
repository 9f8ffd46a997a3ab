"""Resuming with another number of steps: schedule and optimizer state."""

import pytest
import torch
from transformers import TrainerState, get_scheduler

from mgm.errors import MGMError
from mgm.train.args.arguments import TrainingArguments
from mgm.train.checkpointing.schedule import (
    check_optimizer_state,
    describe_schedule_change,
    set_learning_rates,
)


def described(tmp_path, schedule: str, **more: object) -> str:
    arguments = TrainingArguments(
        str(tmp_path), learning_rate=1.0, lr_scheduler_type=schedule, report_to="none", **more
    )
    return describe_schedule_change(arguments, TrainerState(global_step=4, max_steps=4), 8)


def test_decaying_schedule_is_recomputed_with_a_warning(tmp_path):
    assert described(tmp_path, "linear") == (
        "the run has 8 steps now, and had 4 before: the schedule 'linear' is recomputed "
        "for 8 steps; at step 5 the learning rate is 0.5, and would have been 0"
    )
    assert "the learning rate is 0.5" in described(tmp_path, "cosine")
    assert "is 0.667, and would have been 0" in described(tmp_path, "linear", warmup_ratio=0.25)


def test_constant_schedule(tmp_path):
    assert described(tmp_path, "constant").endswith("is 1, as it would have been")


def scheduled(steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    return get_scheduler("linear", optimizer, 0, steps)


def test_learning_rate_of_the_next_step():
    before, now = scheduled(4), scheduled(8)
    for _ in range(4):
        before.optimizer.step()
        before.step()
    now.optimizer.load_state_dict(before.optimizer.state_dict())
    now.load_state_dict(before.state_dict())
    assert now.optimizer.param_groups[0]["lr"] == 0
    set_learning_rates(now)
    assert now.optimizer.param_groups[0]["lr"] == 0.5
    assert now.get_last_lr() == [0.5]
    rates = []
    for _ in range(4):
        now.optimizer.step()
        now.step()
        rates += now.get_last_lr()
    assert rates == [0.375, 0.25, 0.125, 0.0]


def test_optimizer_state_of_other_parameters(tmp_path):
    def trained(size: int) -> torch.optim.Optimizer:
        parameter = torch.nn.Parameter(torch.zeros(size))
        parameter.grad = torch.ones(size)
        optimizer = torch.optim.AdamW([parameter])
        optimizer.step()
        return optimizer

    ours = trained(3)
    ours.load_state_dict(trained(3).state_dict())
    check_optimizer_state(ours, tmp_path)
    ours.load_state_dict(trained(4).state_dict())
    with pytest.raises(MGMError, match=r"optimizer\.pt: is damaged, or of another kind"):
        check_optimizer_state(ours, tmp_path)

"""The training loop that all nano pre-training shares."""

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

logger = logging.getLogger(__name__)

KEPT = 0.95  # of the running average that is shown, per step
SAVE_EVERY = 500  # steps


def train(
    losses: Iterable[tuple[Tensor, dict[str, Tensor]]],
    groups: list[dict[str, Any]],
    steps: int,
    learning_rates: list[float],
    save: Callable[[], None],
) -> None:
    """AdamW with a one-cycle learning rate and clipped gradients, under a progress bar.

    Args:
        losses: computes, whenever asked, a batch's loss and the figures to show of it.
        groups: AdamW's groups of parameters.
        steps: how many batches.
        learning_rates: of each group at its highest, after 5 % of the steps.
        save: writes what was learnt; called every 500 steps and at the end.
    """
    parameters = [parameter for group in groups for parameter in group["params"]]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rates, steps, pct_start=0.05)
    started, average = time.time(), {}
    bar = tqdm(zip(range(steps), losses, strict=False), total=steps)
    for step, (loss, figures) in bar:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        for name, value in figures.items():
            average[name] = KEPT * average.get(name, value.item()) + (1 - KEPT) * value.item()
        if step % 20 == 19:
            bar.set_postfix({name: f"{value:.3f}" for name, value in average.items()})
        if step % SAVE_EVERY == SAVE_EVERY - 1 or step + 1 == steps:
            save()
            shown = ", ".join(f"{name} {value:.4f}" for name, value in average.items())
            logger.info("step %d, %.0f s: %s", step + 1, time.time() - started, shown)

"""The training loop that all nano pre-training shares."""

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

logger = logging.getLogger(__name__)

KEPT = 0.95  # of the running average that is shown, per step
SAVE_EVERY = 500  # steps


def optimizers(
    networks: Sequence[nn.Module], heads: Sequence[nn.Module], learning_rate: float, others: float
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside `networks`, AdamW for all their other parameters and `heads`.

    Args:
        learning_rate: of Muon (Jordan et al. 2024, scaled to the steps of AdamW).
        others: of AdamW.
    """
    matrices = [
        module.weight
        for network in networks
        for module in network.modules()
        if isinstance(module, nn.Linear)
    ]
    tables = {m.weight for n in networks for m in n.modules() if isinstance(m, nn.Embedding)}
    inner = [matrix for matrix in matrices if matrix not in tables]
    taken = set(inner)
    learnt = dict.fromkeys(p for n in (*networks, *heads) for p in n.parameters())
    outer = [p for p in learnt if p.requires_grad and p not in taken]
    return [
        torch.optim.Muon(inner, learning_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outer, others, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def train(
    losses: Iterable[tuple[Tensor, dict[str, Tensor]]],
    optimizers: list[torch.optim.Optimizer],
    steps: int,
    out: Path,
    save: Callable[[Path], None],
    fall: float = 0.4,
) -> None:
    """Clipped gradients and a learning rate that rises, stays and falls, under a progress bar.

    Args:
        losses: computes, whenever asked, a batch's loss and the figures to show of it.
        steps: how many batches; the rate rises over the first 3 %.
        out: folder that gets what was learnt, at the end; until then it is saved beside it, every
            500 steps, in a folder of this name with ".unfinished" added.
        save: writes what was learnt to a folder.
        fall: share of the steps, the last ones, over which the rate falls to zero.
    """
    parameters = [p for o in optimizers for group in o.param_groups for p in group["params"]]
    highest = [[group["lr"] for group in o.param_groups] for o in optimizers]
    started, average = time.time(), {}
    unfinished = out.with_name(f"{out.name}.unfinished")
    bar = tqdm(zip(range(steps), losses, strict=False), total=steps)
    for step, (loss, figures) in bar:
        share = min(1.0, (step + 1) / (0.03 * steps), (steps - step) / max(1, fall * steps))
        for optimizer, rates in zip(optimizers, highest, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = share * rate
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for name, value in figures.items():
            average[name] = KEPT * average.get(name, value.item()) + (1 - KEPT) * value.item()
        if step % 20 == 19:
            bar.set_postfix({name: f"{value:.3f}" for name, value in average.items()})
        if step % SAVE_EVERY == SAVE_EVERY - 1 or step + 1 == steps:
            save(out if step + 1 == steps else unfinished)
            shown = ", ".join(f"{name} {value:.4f}" for name, value in average.items())
            logger.info("step %d, %.0f s: %s", step + 1, time.time() - started, shown)
    shutil.rmtree(unfinished, ignore_errors=True)

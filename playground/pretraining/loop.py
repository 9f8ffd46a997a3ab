"""Training loop of nano pre-training: encoders, language model and probes."""

import itertools
import logging
import pickle
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm import tqdm

from mgm.atomic import atomic_file
from mgm.errors import MGMError

logger = logging.getLogger(__name__)

AVERAGE_DECAY = 0.95  # decay per step of the running averages that are logged
SAVE_EVERY = 600  # steps; a multiple of `POOL` of the conversations


def optimizers(
    networks: Sequence[nn.Module], heads: Sequence[nn.Module], learning_rate: float, others: float
) -> list[torch.optim.Optimizer]:
    """Build Muon for the matrices of `networks`, AdamW for their other parameters and `heads`.

    Args:
        networks: modules whose linear layers are trained with Muon.
        heads: modules trained with AdamW.
        learning_rate: learning rate of Muon (Jordan et al. 2024, update scale matched to AdamW).
        others: learning rate of AdamW.
    """
    matrices = [
        module.weight
        for network in networks
        for module in network.modules()
        if isinstance(module, nn.Linear)
    ]
    tables = {m.weight for n in networks for m in n.modules() if isinstance(m, nn.Embedding)}
    inner = [matrix for matrix in matrices if matrix not in tables]
    with_muon = set(inner)
    parameters = dict.fromkeys(p for n in (*networks, *heads) for p in n.parameters())
    outer = [p for p in parameters if p.requires_grad and p not in with_muon]
    return [
        torch.optim.Muon(inner, learning_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outer, others, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def seeds_of_worker(first: int, block: int = 1) -> Iterator[int]:
    """Iterate endlessly over the first seeds of the blocks that this data-loader worker draws.

    Args:
        first: first seed of the stream.
        block: number of seeds of a block.
    """
    worker = get_worker_info()
    number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
    return itertools.count(first + number * block, workers * block)


def batches_after(
    done: int,
    stream: Callable[[int], IterableDataset[Any]],
    seed: int,
    size: int,
    workers: int,
    collate_fn: Callable[[list[Any]], Any] | None = None,
) -> DataLoader[Any]:
    """Build the loader of a stream's batches, without the first `done`.

    Args:
        done: number of batches to skip.
        stream: makes the endless stream of samples with consecutive seeds from a first seed.
        seed: first seed of the whole stream.
        size: batch size.
        workers: number of worker processes.
        collate_fn: see `DataLoader`.
    """
    return DataLoader(
        stream(seed + done * size),
        size,
        collate_fn=collate_fn,
        num_workers=workers,
        generator=torch.Generator(),  # so that the loader does not use torch's global generator
    )


def train(
    model: nn.Module,
    losses: Callable[[int], Iterable[tuple[Tensor, dict[str, Tensor]]]],
    optimizers: list[torch.optim.Optimizer],
    steps: int,
    out: Path,
    save: Callable[[Path], None],
    decay_ratio: float = 0.4,
) -> None:
    """Train with gradient clipping and a warmup-stable-decay schedule; resumes interrupted runs.

    Every 600 steps a checkpoint is written beside `out`, with the suffix ".unfinished". A run that
    finds this file resumes from it.

    Args:
        model: holds all trained parameters.
        losses: yields the loss and the metrics to log of each batch; called with the number of
            batches to skip.
        optimizers: optimizers of the parameters.
        steps: total number of batches; the first 3 % are warmup.
        out: output folder.
        save: writes the trained model to a folder.
        decay_ratio: share of the steps, at the end, with a linear decay of the learning rate to 0.

    Raises:
        MGMError: the checkpoint is damaged or of another model.
    """
    parameters = [p for o in optimizers for group in o.param_groups for p in group["params"]]
    highest = [[group["lr"] for group in o.param_groups] for o in optimizers]
    unfinished = out.with_name(f"{out.name}.unfinished")
    done, average = 0, {}
    if unfinished.is_file():
        done, average = _read(unfinished, model, optimizers)
        logger.info("%s: continues after step %d, from %s", out.name, done, unfinished)
    started = time.time()
    bar = tqdm(zip(range(done, steps), losses(done), strict=False), total=steps, initial=done)
    for step, (loss, figures) in bar:
        done = step + 1
        share = min(1.0, done / (0.03 * steps), (steps - step) / max(1, decay_ratio * steps))
        for optimizer, rates in zip(optimizers, highest, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = share * rate
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for name, value in figures.items():
            average[name] = (
                AVERAGE_DECAY * average.get(name, value.item()) + (1 - AVERAGE_DECAY) * value.item()
            )
        if done % 20 == 0:
            bar.set_postfix({name: f"{value:.3f}" for name, value in average.items()})
        if done % SAVE_EVERY == 0 or done == steps:
            with atomic_file(unfinished) as part:
                torch.save(_state(done, average, model, optimizers), part)
            shown = ", ".join(f"{name} {value:.4f}" for name, value in average.items())
            seconds = time.time() - started
            logger.info("%s: step %d, %.0f s: %s", out.name, done, seconds, shown)
    if done >= steps:
        save(out)
        unfinished.unlink(missing_ok=True)


def _state(
    done: int,
    average: dict[str, float],
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
) -> dict[str, Any]:
    return {
        "done": done,
        "average": average,
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "random": torch.get_rng_state(),
    }


def _read(
    file: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]
) -> tuple[int, dict[str, float]]:
    """Restore model, optimizers and random state; returns the finished steps and the metrics."""
    try:
        state = torch.load(file, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        torch.set_rng_state(state["random"])
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise MGMError(
            f"{file}: is damaged or a checkpoint of another model; delete it to start again"
        ) from error
    return state["done"], state["average"]

"""Times a few batches before training to predict memory and duration.

The batches are spread over the run and go through forward and backward, without an optimizer step;
random state is restored afterwards, so that the training is the same with and without it.
"""

import logging
import random
import resource
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mgm.data.datasets.collator import Collator, count_tokens
from mgm.data.datasets.packing import PackedCollator
from mgm.model.labels import IGNORE_INDEX
from mgm.train.callbacks.trainer_protocol import TrainerProtocol
from mgm.train.estimate.flops import FlopsCounter
from mgm.train.optim.freezing import count_parameters

logger = logging.getLogger(__name__)

TIMED_BATCHES = 4  # after one for warm-up
MIN_RUN_RATIO = 30  # batches of the run per timed batch; a shorter run is not profiled


class WarmupProfileCallback(TrainerCallback):
    """Logs parameters, memory, tokens and duration of a run before its first step.

    In single-process runs only; `mgm.train.launch --dry-run` estimates the others.

    Args:
        trainer: trainer of the run.
    """

    def __init__(self, trainer: TrainerProtocol) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Profile, if the run is long enough."""
        batches_left = (state.max_steps - state.global_step) * args.gradient_accumulation_steps
        if args.world_size > 1 or args.deepspeed or batches_left < MIN_RUN_RATIO * TIMED_BATCHES:
            return
        with preserve_rng_state():
            seconds, tokens, samples, images = self._measure()
        self.trainer.dataset_losses.take(args.device)  # drops the losses of the profile
        total, trained = count_parameters(self.trainer.model)
        flops = FlopsCounter(self.trainer.model).training_flops(samples, images, tokens)
        logger.info(
            "forecast: %.1f M parameters, %.1f M trained; %s; %d steps of %d samples, about "
            "%.1f M tokens, %.3g TFLOP; %s at %s tokens/s, %.1f samples/s",
            *(total / 1e6, trained / 1e6, _memory(), state.max_steps - state.global_step),
            args.train_batch_size * args.gradient_accumulation_steps,
            *(
                tokens * batches_left / 1e6,
                flops * batches_left / 1e12,
                _duration(seconds * batches_left),
            ),
            *(f"{tokens / seconds:,.0f}", samples / seconds),
        )

    def _measure(self) -> tuple[float, float, float, float]:
        """Mean seconds, tokens, samples and images of a batch."""
        trainer = self.trainer
        model, size = cast(nn.Module, trainer.model_wrapped), trainer.args.train_batch_size
        order = list(trainer.train_sampler())
        starts = np.linspace(0, max(0, len(order) - size), TIMED_BATCHES + 1).astype(int).tolist()
        collate = _with_own_counts(trainer.data_collator)
        times, tokens, samples, images = [], 0, 0, 0
        model.train()
        for start in starts:
            start_time = time.perf_counter()
            batch = collate([trainer.train_dataset[index] for index in order[start : start + size]])
            if trainer.args.dataloader_num_workers:  # workers load batches in parallel
                start_time = time.perf_counter()
            indices = batch.pop("index")
            num_labels = (batch["labels"][:, 1:] != IGNORE_INDEX).sum()
            batch = trainer.prepare_inputs(batch)
            with trainer.compute_loss_context_manager():
                loss = trainer.compute_loss(model, batch, num_items_in_batch=num_labels)
            loss.backward()
            model.zero_grad()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start_time)
            tokens += int(count_tokens(batch))
            samples += len(indices)
            images += len(batch.get("pixel_values_aux", ()))
        number = len(starts)
        return float(np.mean(times[1:])), tokens / number, samples / number, images / number


def _with_own_counts(collator: Collator | PackedCollator) -> Collator | PackedCollator:
    """A copy of the collator whose counts of truncated samples are separate."""
    if isinstance(collator, PackedCollator):
        return PackedCollator(cast(Collator, _with_own_counts(collator.collator)))
    return replace(collator, counts=torch.zeros_like(collator.counts))


@contextmanager
def preserve_rng_state() -> Generator[None]:
    """Restore the random state (RNG state) of Python, NumPy and torch when the block ends."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        yield
    random.setstate(python)
    np.random.set_state(numpy)


def _memory() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB of the device, without optimizer"
    unit = 1 if sys.platform == "darwin" else 1024
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.1f} GB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

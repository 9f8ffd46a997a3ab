"""A few batches before the first step, from which follows what a run will take.

They are batches of the run itself, from its beginning to its end, forward and backward; no step is
made of them, and random numbers go on as if they had not been.
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

BATCHES = 4  # that are timed; one more goes before them
WORTHWHILE = 30  # times as many batches as are timed, or the trial takes longer than it tells


class WarmupProfileCallback(TrainerCallback):
    """Logs parameters, memory, tokens and time of a run before its first step.

    In one process alone, where a trial changes nothing; others have the launcher's forecast.

    Args:
        trainer: of the run.
    """

    def __init__(self, trainer: TrainerProtocol) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make the trial, if the run is long enough."""
        left = (state.max_steps - state.global_step) * args.gradient_accumulation_steps
        if args.world_size > 1 or args.deepspeed or left < WORTHWHILE * BATCHES:
            return
        with preserve_rng_state():
            seconds, tokens, samples, images = self._measure()
        self.trainer.dataset_losses.take(args.device)  # the run has not begun
        total, trained = count_parameters(self.trainer.model)
        flop = FlopsCounter(self.trainer.model).operations(samples, images, tokens)
        logger.info(
            "forecast: %.1f M parameters, %.1f M trained; %s; %d steps of %d samples, about "
            "%.1f M tokens, %.3g TFLOP; %s at %s tokens/s, %.1f samples/s",
            *(total / 1e6, trained / 1e6, _memory(), state.max_steps - state.global_step),
            args.train_batch_size * args.gradient_accumulation_steps,
            *(tokens * left / 1e6, flop * left / 1e12, _time(seconds * left)),
            *(f"{tokens / seconds:,.0f}", samples / seconds),
        )

    def _measure(self) -> tuple[float, float, float, float]:
        """Seconds, tokens, samples and images of a batch, on average."""
        trainer = self.trainer
        model, size = cast(nn.Module, trainer.model_wrapped), trainer.args.train_batch_size
        order = list(trainer.train_sampler())
        starts = np.linspace(0, max(0, len(order) - size), BATCHES + 1).astype(int).tolist()
        collate = _uncounted(trainer.data_collator)
        times, tokens, samples, images = [], 0, 0, 0
        model.train()
        for start in starts:
            begun = time.perf_counter()
            batch = collate([trainer.train_dataset[index] for index in order[start : start + size]])
            if trainer.args.dataloader_num_workers:  # then others prepare batches meanwhile
                begun = time.perf_counter()
            places = batch.pop("index")
            count = (batch["labels"][:, 1:] != IGNORE_INDEX).sum()
            batch = trainer.prepare_inputs(batch)
            with trainer.compute_loss_context_manager():
                loss = trainer.compute_loss(model, batch, num_items_in_batch=count)
            loss.backward()
            model.zero_grad()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begun)
            tokens += int(count_tokens(batch))
            samples += len(places)
            images += len(batch.get("pixel_values_aux", ()))
        number = len(starts)
        return float(np.mean(times[1:])), tokens / number, samples / number, images / number


def _uncounted(collator: Collator | PackedCollator) -> Collator | PackedCollator:
    """The same collator with counts of its own."""
    if isinstance(collator, PackedCollator):
        return PackedCollator(cast(Collator, _uncounted(collator.collator)))
    return replace(collator, counts=torch.zeros_like(collator.counts))


@contextmanager
def preserve_rng_state() -> Generator[None]:
    """Have random numbers go on afterwards as before."""
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


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

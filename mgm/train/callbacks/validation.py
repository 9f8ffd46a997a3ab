"""Samples that are not learned from, on which a run is measured while it trains."""

import logging
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mgm.data.datasets.collator import Collator
from mgm.data.datasets.conversation_dataset import TrainingDataset
from mgm.data.datasets.mixture import MixedDataset
from mgm.data.text.templates import IMAGE_MARKER
from mgm.engine.core.request import Request
from mgm.engine.engine import Engine
from mgm.model.ops.causal_lm_loss import IGNORED
from mgm.train.callbacks.dataset_losses import summed_over_processes
from mgm.train.callbacks.trainer_protocol import RunningTrainer

logger = logging.getLogger(__name__)

ANSWER_TOKENS = 64  # of an answer that is compared, at most


@dataclass(frozen=True)
class HoldOut:
    """Data that a run is measured on.

    Attributes:
        samples: of a file or a mixture.
        collator: makes batches of them.
        answers: how many first questions the model answers; 0: only the loss is measured.
    """

    samples: TrainingDataset | MixedDataset
    collator: Collator
    answers: int = 0

    @torch.no_grad()
    def measure(self, trainer: RunningTrainer) -> dict[str, float]:
        """The loss by token, of all and of each source, and the share of answers that are right.

        All processes have to ask, with the model in evaluation mode.
        """
        sums = self._sums(trainer)
        names = self.samples.source_names
        loss, count = sums.sum(0).tolist()
        metrics = {"eval_loss": loss / max(count, 1)}
        for name, (loss, count) in zip(names, sums.tolist(), strict=False):
            if count:
                metrics[f"eval_loss/{name}"] = loss / count
        if self.answers:
            right, asked = self._answered(trainer).tolist()
            metrics["eval_right_answers"] = right / asked
        return metrics

    def _sums(self, trainer: RunningTrainer) -> Tensor:
        """Summed losses and labels of each source (sources, 2), over all processes."""
        args = trainer.args
        sums = torch.zeros(max(1, len(self.samples.source_names)), 2, device=args.device)
        size = args.per_device_eval_batch_size
        places = list(range(args.process_index, len(self.samples), args.world_size))
        batches = [places[start : start + size] for start in range(0, len(places), size)]
        # Where weights are divided, every process has to run as often as the others.
        rounds = -(-len(range(0, len(self.samples), args.world_size)) // size)
        loader = DataLoader(
            cast(Dataset, self.samples),
            batch_sampler=batches + [[0]] * (rounds - len(batches)),
            collate_fn=self.collator,
            num_workers=args.dataloader_num_workers,
            generator=torch.Generator(),  # or it would draw from the random numbers of the run
        )
        divided = trainer.is_deepspeed_enabled or args.sharded
        model = trainer.model_wrapped if divided else trainer.model
        for number, batch in enumerate(loader):
            batch.pop("index", None)
            if number >= len(batches):
                batch["labels"].fill_(IGNORED)
            batch.setdefault("loss_group_ids", torch.zeros_like(batch["labels"]))
            inputs = trainer.prepare_inputs(batch)
            found = cast(nn.Module, model)(**inputs, skip_logits=True).group_losses.to(sums)
            sums.index_add_(0, found[:, 0].long(), found[:, 1:])
        return summed_over_processes(sums)

    def _answered(self, trainer: RunningTrainer) -> Tensor:
        """How many first questions were answered exactly, and how many were asked."""
        args = trainer.args
        asked = min(self.answers, len(self.samples))
        requests, expected = [], []
        for place in range(args.process_index, asked, args.world_size):
            sample, folder = self.samples.sample(place)
            question, answer = sample.turns[0]
            images = tuple(i if isinstance(i, bytes) else str(folder / i) for i in sample.images)
            text = question.replace(IMAGE_MARKER, "").strip()
            requests.append(
                Request(
                    text,
                    images=images,
                    max_new_tokens=ANSWER_TOKENS,
                    temperature=0.0,
                    orientation=self.samples.orientation,
                )
            )
            expected.append((answer or "").strip())
        engine = Engine(trainer.model, self.samples.processor)
        right = 0
        size = args.per_device_eval_batch_size
        for start in range(0, len(requests), size):
            given = engine.answer(requests[start : start + size])
            wanted = expected[start : start + size]
            right += sum(a.text.strip() == w for a, w in zip(given, wanted, strict=True))
        counts = torch.tensor([right, len(requests)], dtype=torch.float32, device=args.device)
        return summed_over_processes(counts)


def described(metrics: dict[str, Any]) -> str:
    """What was measured, in words."""
    text = f"hold-out loss {metrics['eval_loss']:.3f}"
    parts = [
        f"{name.removeprefix('eval_loss/')} {value:.3f}"
        for name, value in metrics.items()
        if name.startswith("eval_loss/")
    ]
    if parts:
        text += f" ({', '.join(parts)})"
    if "eval_right_answers" in metrics:
        text += f", {100 * metrics['eval_right_answers']:.1f} % of answers right"
    return text

"""Validation during training: loss per token and data set, exact match of generated answers."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mgm.data.datasets.collator import Collator, is_usable
from mgm.data.datasets.mixture import MixedDataset
from mgm.data.datasets.training_dataset import TrainingDataset
from mgm.data.sources.bad_samples import BadSample, nothing_usable
from mgm.data.sources.sample import Sample
from mgm.data.text.conversation import Message, merge_messages
from mgm.data.text.templates import IMAGE_MARKER, ConversationTemplate
from mgm.engine.core.request import Request
from mgm.engine.engine import Engine
from mgm.errors import MGMError
from mgm.model.labels import IGNORE_INDEX
from mgm.train.callbacks.trainer_protocol import TrainerProtocol
from mgm.train.distributed.collectives import all_reduce_sum

logger = logging.getLogger(__name__)

MAX_NEW_TOKENS = 64  # maximum tokens of a generated answer


@dataclass(frozen=True)
class ValidationSet:
    """The validation set, and the metrics that are computed on it.

    A sample that is once listed as bad is left out of all later evaluations, so that the losses of
    a run stay comparable.

    Attributes:
        samples: samples of a file or a mixture.
        collator: makes batches of them.
        num_generations: number of samples, the first usable ones, for which the answer to the
            first question is generated and compared; 0: only the loss is computed.
    """

    samples: TrainingDataset | MixedDataset
    collator: Collator
    num_generations: int = 0

    @torch.no_grad()
    def evaluate(self, trainer: TrainerProtocol) -> dict[str, float]:
        """The mean loss per token, overall and by data set, and the exact match of answers.

        A collective: all processes have to call it, with the model in evaluation mode.

        Raises:
            MGMError: a sample is bad and bad samples are not skipped; or no sample is usable, or
                none has a label within `model_max_length`.
        """
        bad = self._bad_samples()
        sums, usable, measured = self._summed_losses(trainer, bad)
        if not usable:
            raise nothing_usable(self.samples.path, list(self._bad_samples().values()))
        if not measured:
            raise MGMError(
                f"--eval_data_path {self.samples.path}: none of its {usable} samples has a label "
                f"within model_max_length {self.collator.max_length}, so that there is no loss to "
                "compute; raise it"
            )
        names = self.samples.source_names
        loss, count = sums.sum(0).tolist()
        metrics = {"eval_loss": loss / count}
        for name, (loss, count) in zip(names, sums.tolist(), strict=False):
            if count:
                metrics[f"eval_loss/{name}"] = loss / count
        metrics["eval_samples"] = measured
        metrics["eval_samples_skipped"] = len(self.samples) + self.samples.skipped - measured
        if self.num_generations:
            correct, generated = self._count_correct(trainer, self._bad_samples()).tolist()
            if generated:
                metrics["eval_right_answers"] = correct / generated
            metrics["eval_answers"] = generated
            metrics["eval_answers_skipped"] = self.num_generations - generated
        return metrics

    def _bad_samples(self) -> dict[tuple[str, int], BadSample]:
        """Samples that are listed as bad so far, by file and index."""
        bad_samples = self.samples.bad_samples
        if bad_samples is None:
            return {}
        entries = bad_samples.entries(self.samples.files)
        return {(entry.file, entry.sample): entry for entry in entries}

    def _summed_losses(
        self, trainer: TrainerProtocol, bad: Collection[tuple[str, int]]
    ) -> tuple[Tensor, int, int]:
        """Losses and labels summed by data set, and counts of samples, over all processes.

        Returns:
            The sums (data sets, 2); the number of usable samples; of those with a label.
        """
        args = trainer.args
        sums = torch.zeros(max(1, len(self.samples.source_names)), 2, device=args.device)
        size = args.per_device_eval_batch_size
        rows = list(range(args.process_index, len(self.samples), args.world_size))
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        if bad:
            batches = [[i for i in rows if self.samples.location(i) not in bad] for rows in batches]
        # With sharded weights each forward pass is a collective: every process needs as many
        # batches. Of no samples the collator makes a batch without labels.
        num_batches = -(-len(range(0, len(self.samples), args.world_size)) // size)
        loader = DataLoader(
            cast(Dataset, self.samples),
            batch_sampler=batches + [[]] * (num_batches - len(batches)),
            collate_fn=partial(_collate_with_counts, self.collator),
            num_workers=args.dataloader_num_workers,
            generator=torch.Generator(),  # keeps the RNG state of training
        )
        is_wrapped = trainer.is_deepspeed_enabled or args.use_fsdp
        model = trainer.model_wrapped if is_wrapped else trainer.model
        counts = torch.zeros(2, dtype=torch.long, device=args.device)
        for batch, usable, labelled in loader:
            counts += torch.tensor([usable, labelled], device=args.device)
            batch.pop("index", None)
            batch.setdefault("loss_group_ids", torch.zeros_like(batch["labels"]))
            inputs = trainer.prepare_inputs(batch)
            losses = cast(nn.Module, model)(**inputs, skip_logits=True).group_losses.to(sums)
            sums.index_add_(0, losses[:, 0].long(), losses[:, 1:])
        usable, measured = all_reduce_sum(counts).tolist()
        return all_reduce_sum(sums), usable, measured

    def _count_correct(self, trainer: TrainerProtocol, bad: Collection[tuple[str, int]]) -> Tensor:
        """Number of exact matches, and number of generated answers."""
        args = trainer.args
        good = (row for row in range(len(self.samples)) if self.samples.location(row) not in bad)
        rows = list(islice(good, self.num_generations))[args.process_index :: args.world_size]
        engine = Engine(trainer.model, self.samples.processor)
        correct, generated, size = 0, 0, args.per_device_eval_batch_size
        for start in range(0, len(rows), size):
            texts = self._generate(engine, rows[start : start + size])
            generated += len(texts)
            for row, text in texts.items():
                _, answer = self.samples.sample(row)[0].turns[0]
                correct += text.strip() == (answer or "").strip()
        counts = torch.tensor([correct, generated], dtype=torch.float32, device=args.device)
        return all_reduce_sum(counts)

    def _generate(self, engine: Engine, rows: Sequence[int]) -> dict[int, str]:
        """Generated answers to the first questions of samples, by row.

        A request that the engine rejects, such as one that is too long, is left out where bad
        samples are skipped.
        """
        template, orientation = self.samples.processor.template, self.samples.orientation
        try:
            answers = engine.answer(
                [first_question(*self.samples.sample(row), template, orientation) for row in rows]
            )
        except MGMError as error:
            if len(rows) > 1:  # one by one, to see which is rejected
                texts = (self._generate(engine, [row]) for row in rows)
                return {row: text for one in texts for row, text in one.items()}
            message = f"--eval_num_generations: sample {self.samples.label(rows[0])}: {error}"
            if self.samples.bad_samples is None:
                raise MGMError(message) from error
            logger.warning("%s", message)
            return {}
        return {row: answer.text for row, answer in zip(rows, answers, strict=True)}


def _collate_with_counts(
    collator: Collator, samples: Sequence[dict[str, Tensor]]
) -> tuple[dict[str, Tensor], int, int]:
    """A batch, its number of usable samples, and of usable samples with a label."""
    batch = collator(samples)
    labelled = int((batch["labels"][:, 1:] != IGNORE_INDEX).any(dim=1).sum())
    return batch, sum(map(is_usable, samples)), labelled


def first_question(
    sample: Sample, folder: Path, template: ConversationTemplate, orientation: str
) -> Request:
    """The request for the first question of a sample, with the images of that question.

    The prompt is the training text: the system prompt is merged into the question where the
    template has none, and left out where the training text has no questions.

    Args:
        sample: a conversation; its later turns and their images are ignored.
        folder: folder that image paths are relative to.
        template: conversation template of the training.
        orientation: orientation of the images, "stored" or "upright".
    """
    question, _ = sample.arranged_turns[0]
    layout, system = template.layout, sample.system
    if system is not None and (template.training or layout).drops_questions:
        system = None
    if system is not None:
        messages = [Message("system", system), Message("user", question)]
        *before, merged = merge_messages(layout, messages)
        question, system = merged.text, system if before else None
    return Request(
        question,
        images=sample.image_sources(folder)[: question.count(IMAGE_MARKER)],
        system=system,
        max_new_tokens=MAX_NEW_TOKENS,
        temperature=0.0,
        orientation=orientation,
    )


def describe_metrics(metrics: dict[str, Any]) -> str:
    """The metrics of an evaluation as one log line."""
    text = f"validation loss {metrics['eval_loss']:.3f}"
    parts = [
        f"{name.removeprefix('eval_loss/')} {value:.3f}"
        for name, value in metrics.items()
        if name.startswith("eval_loss/")
    ]
    if parts:
        text += f" ({', '.join(parts)})"
    if skipped := metrics.get("eval_samples_skipped"):
        measured = metrics["eval_samples"]
        text += f", on {measured} of {measured + skipped} samples"
    if "eval_right_answers" in metrics:
        share, generated = metrics["eval_right_answers"], metrics["eval_answers"]
        text += f", {100 * share:.1f} % of {generated:.0f} answers correct"
    if skipped := metrics.get("eval_answers_skipped"):
        text += f", {skipped:.0f} fewer answers generated than --eval_num_generations"
    return text

"""Samples that are not learned from, on which a run is measured while it trains."""

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
from mgm.data.datasets.conversation_dataset import TrainingDataset
from mgm.data.datasets.mixture import MixedDataset
from mgm.data.sources.bad_samples import BadSample, nothing_usable
from mgm.data.sources.sample import Sample
from mgm.data.text.conversation import Message, merge_messages
from mgm.data.text.templates import IMAGE_MARKER, Template
from mgm.engine.core.request import Request
from mgm.engine.engine import Engine
from mgm.errors import MGMError
from mgm.model.labels import IGNORE_INDEX
from mgm.train.callbacks.dataset_losses import all_reduce_sum
from mgm.train.callbacks.trainer_protocol import TrainerProtocol

logger = logging.getLogger(__name__)

ANSWER_TOKENS = 64  # of an answer that is compared, at most


@dataclass(frozen=True)
class ValidationSet:
    """Data that a run is measured on.

    A sample that is on the list of bad samples is not measured, then or later, so that the losses
    of a run can be compared with one another.

    Attributes:
        samples: of a file or a mixture.
        collator: makes batches of them.
        answers: of how many samples that can be used, the first ones, the model answers the first
            question; 0: only the loss is measured.
    """

    samples: TrainingDataset | MixedDataset
    collator: Collator
    answers: int = 0

    @torch.no_grad()
    def measure(self, trainer: TrainerProtocol) -> dict[str, float]:
        """The loss by token, of all and of each source, and the share of answers that are right.

        All processes have to ask, with the model in evaluation mode.

        Raises:
            MGMError: a sample cannot be used, and none is skipped; or no sample can be used, or
                none has a label within the limit of positions.
        """
        bad = self._listed()
        sums, usable, measured = self._sums(trainer, bad)
        if not usable:
            raise nothing_usable(self.samples.path, list(self._listed().values()))
        if not measured:
            raise MGMError(
                f"--eval_data_path {self.samples.path}: none of its {usable} samples has a label "
                f"within model_max_length {self.collator.max_length}, so that there is no loss to "
                "measure; allow more"
            )
        names = self.samples.source_names
        loss, count = sums.sum(0).tolist()
        metrics = {"eval_loss": loss / count}
        for name, (loss, count) in zip(names, sums.tolist(), strict=False):
            if count:
                metrics[f"eval_loss/{name}"] = loss / count
        metrics["eval_samples"] = measured
        metrics["eval_samples_skipped"] = len(self.samples) + self.samples.skipped - measured
        if self.answers:
            right, asked = self._answered(trainer, self._listed()).tolist()
            if asked:
                metrics["eval_right_answers"] = right / asked
            metrics["eval_answers"] = asked
            metrics["eval_answers_skipped"] = self.answers - asked
        return metrics

    def _listed(self) -> dict[tuple[str, int], BadSample]:
        """The samples of the hold-out that are known to be bad, by file and index."""
        bad_samples = self.samples.bad_samples
        if bad_samples is None:
            return {}
        entries = bad_samples.entries(self.samples.files)
        return {(entry.file, entry.sample): entry for entry in entries}

    def _sums(
        self, trainer: TrainerProtocol, bad: Collection[tuple[str, int]]
    ) -> tuple[Tensor, int, int]:
        """Summed losses and labels of each source, and counts of samples, over all processes.

        Returns:
            The sums (sources, 2); samples that can be used; those of them with a label.
        """
        args = trainer.args
        sums = torch.zeros(max(1, len(self.samples.source_names)), 2, device=args.device)
        size = args.per_device_eval_batch_size
        rows = list(range(args.process_index, len(self.samples), args.world_size))
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        if bad:
            batches = [[i for i in rows if self.samples.location(i) not in bad] for rows in batches]
        # Where weights are divided, every process has to run as often as the others: of nothing the
        # collator makes a batch that has no labels.
        rounds = -(-len(range(0, len(self.samples), args.world_size)) // size)
        loader = DataLoader(
            cast(Dataset, self.samples),
            batch_sampler=batches + [[]] * (rounds - len(batches)),
            collate_fn=partial(_counted, self.collator),
            num_workers=args.dataloader_num_workers,
            generator=torch.Generator(),  # or it would draw from the random numbers of the run
        )
        divided = trainer.is_deepspeed_enabled or args.use_fsdp
        model = trainer.model_wrapped if divided else trainer.model
        counts = torch.zeros(2, dtype=torch.long, device=args.device)
        for batch, usable, labelled in loader:
            counts += torch.tensor([usable, labelled], device=args.device)
            batch.pop("index", None)
            batch.setdefault("loss_group_ids", torch.zeros_like(batch["labels"]))
            inputs = trainer.prepare_inputs(batch)
            found = cast(nn.Module, model)(**inputs, skip_logits=True).group_losses.to(sums)
            sums.index_add_(0, found[:, 0].long(), found[:, 1:])
        usable, measured = all_reduce_sum(counts).tolist()
        return all_reduce_sum(sums), usable, measured

    def _answered(self, trainer: TrainerProtocol, bad: Collection[tuple[str, int]]) -> Tensor:
        """How many first questions were answered exactly, and how many were asked."""
        args = trainer.args
        good = (row for row in range(len(self.samples)) if self.samples.location(row) not in bad)
        rows = list(islice(good, self.answers))[args.process_index :: args.world_size]
        engine = Engine(trainer.model, self.samples.processor)
        right, asked, size = 0, 0, args.per_device_eval_batch_size
        for start in range(0, len(rows), size):
            asked_rows = rows[start : start + size]
            given = self._ask(engine, asked_rows)
            asked += len(given)
            for row, text in given.items():
                _, answer = self.samples.sample(row)[0].turns[0]
                right += text.strip() == (answer or "").strip()
        counts = torch.tensor([right, asked], dtype=torch.float32, device=args.device)
        return all_reduce_sum(counts)

    def _ask(self, engine: Engine, rows: Sequence[int]) -> dict[int, str]:
        """The model's answers to the first questions of some samples, by their rows.

        Without a question that cannot be asked, for instance since it is too long, where bad
        samples are skipped.
        """
        template, orientation = self.samples.processor.template, self.samples.orientation
        try:
            answers = engine.answer(
                [first_question(*self.samples.sample(row), template, orientation) for row in rows]
            )
        except MGMError as error:
            if len(rows) > 1:  # find out which
                return {row: text for one in rows for row, text in self._ask(engine, [one]).items()}
            message = f"--eval_num_generations: sample {self.samples.label(rows[0])}: {error}"
            if self.samples.bad_samples is None:
                raise MGMError(message) from error
            logger.warning("%s", message)
            return {}
        return {row: answer.text for row, answer in zip(rows, answers, strict=True)}


def _counted(
    collator: Collator, samples: Sequence[dict[str, Tensor]]
) -> tuple[dict[str, Tensor], int, int]:
    """A batch, of how many samples that can be used it is, and how many of them have a label."""
    batch = collator(samples)
    labelled = int((batch["labels"][:, 1:] != IGNORE_INDEX).any(dim=1).sum())
    return batch, sum(map(is_usable, samples)), labelled


def first_question(sample: Sample, folder: Path, template: Template, orientation: str) -> Request:
    """The request that asks the first question of a sample, with the images that stand in it.

    Images and system text are where training has them: the system text begins the question where
    the template has no place for one, and is left out where the training text has no questions.

    Args:
        sample: a conversation; its later turns and their images play no part.
        folder: where image paths begin.
        template: that the model is trained with.
        orientation: of the images, "stored" or "upright".
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
        max_new_tokens=ANSWER_TOKENS,
        temperature=0.0,
        orientation=orientation,
    )


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
    if skipped := metrics.get("eval_samples_skipped"):
        measured = metrics["eval_samples"]
        text += f", measured on {measured} of {measured + skipped} samples"
    if "eval_right_answers" in metrics:
        share, asked = metrics["eval_right_answers"], metrics["eval_answers"]
        text += f", {100 * share:.1f} % of {asked:.0f} answers right"
    if skipped := metrics.get("eval_answers_skipped"):
        text += f", {skipped:.0f} fewer questions asked than --eval_num_generations says"
    return text

"""Collator: truncates and pads samples to a batch of token ids, labels and images."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mgm.data.processing_mgm import MGMProcessor
from mgm.data.text.padding import attention_mask, pad_rows
from mgm.errors import MGMError
from mgm.model.labels import IGNORE_INDEX

logger = logging.getLogger(__name__)

SEEN, TRUNCATED, TRUNCATED_AT_IMAGE, UNSUPERVISED = range(4)  # indices of `counts`
MIN_UNSUPERVISED = 64  # samples without a label at the start of a run, before it is an error


def count_tokens(batch: Mapping[str, Tensor]) -> Tensor | int:
    """Number of tokens in a batch without padding; padding of packed rows, of which there is
    little, is counted."""
    mask = batch.get("attention_mask")
    return batch["input_ids"].numel() if mask is None else mask.sum()


def is_usable(sample: Mapping[str, Tensor]) -> bool:
    """Whether an item of a `TrainingDataset` has token ids; a bad sample has its index only."""
    return "input_ids" in sample


def _counts() -> Tensor:
    return torch.zeros(4, dtype=torch.long).share_memory_()  # shared by all DataLoader workers


@dataclass(frozen=True)
class Collator:
    """Batches samples of a `ConversationDataset`: truncates, pads, and concatenates their images.

    A sample longer than `max_length` is truncated at the end. If the limit falls inside an image,
    the sample is truncated before that image. The first truncated sample and the first one
    without labels are logged, with their index in the file if known; `report` logs the counts.

    Attributes:
        pad_token_id: fills shorter rows.
        image_token_id: the token id at image positions.
        image_tokens_per_image: number of positions of one image.
        max_length: maximum tokens of a sample, image tokens included; None: no limit.
        padding_side: "right" or "left".
        label: returns the name of a sample in logs, given its `index`.
        counts: samples in total, truncated in text, truncated at an image, and without labels.
    """

    pad_token_id: int
    image_token_id: int
    image_tokens_per_image: int
    max_length: int | None = None
    padding_side: str = "right"
    label: Callable[[int], str] = str
    counts: Tensor = field(default_factory=_counts, compare=False, repr=False)

    @classmethod
    def of(
        cls, processor: MGMProcessor, max_length: int | None = None, padding_side: str = "right"
    ) -> "Collator":
        """The collator for samples of a processor."""
        return cls(
            pad_token_id=processor.tokenizer.pad_token_id or 0,
            image_token_id=processor.image_token_id,
            image_tokens_per_image=processor.image_tokens_per_image,
            max_length=max_length,
            padding_side=padding_side,
        )

    def __call__(self, samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Make a batch; skipped samples are left out.

        If all are skipped, the batch is one position without a label.

        Returns:
            `input_ids`, `labels` and `attention_mask` (batch, length); with images also
            `pixel_values_aux` (images, 3, A, A), and `pixel_values` (images, crops, 3, S, S) if the
            samples have it: the images of all samples in the order of their markers; with indices
            also `index` (samples), their indices in the file; with sources also `loss_group_ids`
            (batch, length), the index of each sample's `source`.

        Raises:
            MGMError: none of the first `MIN_UNSUPERVISED` samples has a label.
        """
        source = {name: samples[0][name] for name in ("source",) if samples and name in samples[0]}
        samples = [self._truncate(sample) for sample in samples if is_usable(sample)]
        self._check_labels(samples)
        indices = [sample["index"].reshape(1) for sample in samples if "index" in sample]
        if not samples:  # The model runs nevertheless: its collectives need every process.
            # Not the padding token: if its embedding is zeros, all logits are zero, and the loss
            # runs the model again to probe its LM head, which other processes would not do.
            token = torch.tensor([self.pad_token_id - 1 if self.pad_token_id else 1])
            samples = [{"input_ids": token, "labels": torch.tensor([IGNORE_INDEX]), **source}]
            indices = [torch.zeros(0, dtype=torch.long)]
        rows = [sample["input_ids"] for sample in samples]
        labels = [sample["labels"] for sample in samples]
        batch = {
            "input_ids": pad_rows(rows, self.pad_token_id, self.padding_side),
            "labels": pad_rows(labels, IGNORE_INDEX, self.padding_side),
            "attention_mask": attention_mask([len(row) for row in rows], self.padding_side),
        }
        if indices:
            batch["index"] = torch.cat(indices)
        if all("source" in sample for sample in samples):
            sources = torch.stack([sample["source"].reshape(1) for sample in samples])
            batch["loss_group_ids"] = sources.expand_as(batch["labels"]).clone()
        for name in ("pixel_values", "pixel_values_aux"):
            images = [sample[name] for sample in samples if len(sample.get(name, ()))]
            if images:
                batch[name] = torch.cat(images)
        return batch

    def _truncate(self, sample: dict[str, Tensor]) -> dict[str, Tensor]:
        ids = sample["input_ids"]
        if self.max_length is None or len(ids) <= self.max_length:
            return sample
        end = self.max_length
        positions = (ids == self.image_token_id).nonzero().flatten()
        starts = positions[:: self.image_tokens_per_image].tolist()
        kept = [start for start in starts if start + self.image_tokens_per_image <= end]
        if len(kept) < len(starts):
            end = min(end, starts[len(kept)])
            image = f"image {len(kept) + 1} of {len(starts)}"
            fate = f"{image} does not fit and is left out with what follows it"
            self._count(
                TRUNCATED_AT_IMAGE, sample, f"is cut from {len(ids)} positions to {end}: {fate}"
            )
        else:
            self._count(TRUNCATED, sample, f"is cut from {len(ids)} positions to {end}")
        cut = {name: sample[name][:end] for name in ("input_ids", "labels")}
        images = ("pixel_values", "pixel_values_aux")
        cut |= {name: sample[name][: len(kept)] for name in images if name in sample}
        return sample | cut

    def _check_labels(self, samples: Sequence[dict[str, Tensor]]) -> None:
        self.counts[SEEN] += len(samples)
        for sample in samples:
            if not (
                sample["labels"][1:] != IGNORE_INDEX
            ).any():  # no logits predict the first token
                self._count(UNSUPERVISED, sample, "has no labels left")
        if self.counts[UNSUPERVISED] >= MIN_UNSUPERVISED:
            self._check_supervision()

    def _check_supervision(self) -> None:
        seen, *_, unsupervised = self.counts.tolist()
        if seen == unsupervised > 0:
            raise MGMError(
                f"none of {seen} samples has a label within model_max_length {self.max_length}, so "
                "nothing is learned; allow more"
            )

    def _count(self, kind: int, sample: dict[str, Tensor], what: str) -> None:
        self.counts[kind] += 1
        if self.counts[kind] == 1:
            label = (
                f"sample {self.label(int(sample['index']))}" if "index" in sample else "a sample"
            )
            limit = f"model_max_length is {self.max_length}"
            logger.warning("%s %s (%s); more of these are only counted", label, what, limit)

    def report(self) -> None:
        """Log how many samples were truncated and how many had no label.

        Raises:
            MGMError: no sample had a label.
        """
        self._check_supervision()
        seen, cut, cut_at_image, unsupervised = self.counts.tolist()
        for count, fate in (
            (cut, "were cut at model_max_length"),
            (cut_at_image, "lost an image to model_max_length"),
            (unsupervised, "had no label left and taught nothing; allow a larger model_max_length"),
        ):
            if count:
                logger.warning("%d of %d samples %s", count, seen, fate)

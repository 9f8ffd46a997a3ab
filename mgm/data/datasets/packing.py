"""Sequence packing: several samples per row, with position ids for block-diagonal attention."""

import logging
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mgm.data.datasets.collator import Collator, is_usable
from mgm.data.datasets.mixture import MixedDataset
from mgm.data.datasets.training_dataset import TrainingDataset
from mgm.data.text.padding import pad_rows
from mgm.model.labels import IGNORE_INDEX

logger = logging.getLogger(__name__)

WINDOW = 4096  # samples that are packed at a time


def pack(
    lengths: Sequence[int], images: Sequence[int], limit: int, seed: int, window: int = WINDOW
) -> list[list[int]]:
    """Pack samples into rows that are nearly full and have about equally many images.

    Best-fit decreasing bin packing in random windows: samples in order of decreasing length each
    go into the fullest row that has space for its tokens and its images.

    Args:
        lengths: tokens of each sample, at most `limit` of which count.
        images: number of images of each sample.
        limit: maximum tokens of a row.
        seed: seed for the shuffle that makes the windows.
        window: samples per window.

    Returns:
        Indices of the samples of each row; every sample is in one row.
    """
    order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(seed)).tolist()
    rows: list[list[int]] = []
    for start in range(0, len(order), window):
        part = order[start : start + window]
        rows += _pack_window(part, lengths, images, limit)
    return rows


def _pack_window(
    samples: Sequence[int], lengths: Sequence[int], images: Sequence[int], limit: int
) -> list[list[int]]:
    sizes = {index: min(lengths[index], limit) for index in samples}
    fewest = max(1, -(-sum(sizes.values()) // limit))
    # A row with many more images than the others would make its process a straggler.
    allowed = max(1, -(-sum(images[index] for index in samples) // fewest)) + 1
    rows: list[list[int]] = []
    counts: list[int] = []  # images in each row
    free_space: list[tuple[int, int]] = []  # tokens left in each row, with its index
    for index in sorted(samples, key=lambda index: -sizes[index]):
        slot = bisect_left(free_space, (sizes[index], -1))
        while slot < len(free_space) and counts[free_space[slot][1]] + images[index] > allowed:
            slot += 1
        if slot < len(free_space):
            free, row = free_space.pop(slot)
        else:
            free, row = limit, len(rows)
            rows.append([])
            counts.append(0)
        rows[row].append(index)
        counts[row] += images[index]
        if free > sizes[index]:
            insort(free_space, (free - sizes[index], row))
    return rows


@dataclass(frozen=True)
class PackedCollator:
    """Concatenates each list of samples to a row; position ids restart at 0 with each sample.

    There is no attention mask: transformers derives the sample boundaries from the position ids
    and masks attention across them (`transformers.masking_utils.find_packed_sequence_indices`).

    Attributes:
        collator: truncates and counts samples, and has the padding token ids.
    """

    collator: Collator

    def __call__(self, rows: Sequence[Sequence[dict[str, Tensor]]]) -> dict[str, Tensor]:
        """Make a batch.

        Returns:
            The tensors of `Collator`, with `position_ids` (batch, length) in place of the mask.
        """
        # Skipped samples are left out; a row of skipped samples only has no labels.
        kept = [[[one] for one in row if is_usable(one)] or [list(row)] for row in rows]
        batches = [self.collator(sample) for row in kept for sample in row]
        ends = torch.tensor([len(row) for row in kept]).cumsum(0).tolist()
        spans = [range(end - len(row), end) for end, row in zip(ends, kept, strict=True)]

        def joined(name: str) -> list[Tensor]:
            return [torch.cat([batches[index][name][0] for index in span]) for span in spans]

        for batch in batches:
            batch["labels"][:, 0] = IGNORE_INDEX  # not predicted from the sample before it
        positions = [
            torch.cat([torch.arange(batches[index]["input_ids"].shape[1]) for index in span])
            for span in spans
        ]
        made = {
            "input_ids": pad_rows(joined("input_ids"), self.collator.pad_token_id),
            "labels": pad_rows(joined("labels"), IGNORE_INDEX),
            "position_ids": pad_rows(positions, 0),
        }
        for name in ("index", "pixel_values", "pixel_values_aux"):
            parts = [batch[name] for batch in batches if name in batch]
            if parts:
                made[name] = torch.cat(parts)
        if all("loss_group_ids" in batch for batch in batches):
            made["loss_group_ids"] = pad_rows(joined("loss_group_ids"), 0)
        return made

    def report(self) -> None:
        """Log how many samples were truncated or had no label."""
        self.collator.report()


class PackedDataset(Dataset[list[dict[str, Tensor]]]):
    """Map-style dataset of packed rows, the same in every epoch; the sampler shuffles them.

    Args:
        dataset: the samples to pack.
        limit: maximum tokens of a row.
        seed: seed for the choice of samples that share a row.
    """

    def __init__(self, dataset: TrainingDataset | MixedDataset, limit: int, seed: int) -> None:
        self.dataset, self.orientation = dataset, dataset.orientation
        lengths = dataset.lengths
        images = dataset.image_counts.tolist()
        self.rows = pack(lengths, images, limit, seed)
        filled = sum(min(length, limit) for length in lengths)
        logger.info(
            "packed: %d samples in %d rows of %d positions, %.1f %% of them padding",
            *(len(dataset), len(self.rows), limit, 100 * (1 - filled / (len(self.rows) * limit))),
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def source_names(self) -> tuple[str, ...]:
        """Names of the data sets in reports, if there are several."""
        return self.dataset.source_names

    def label(self, index: int) -> str:
        """The name in reports of the sample with an `index`."""
        return self.dataset.label(index)

    def check_usable(self) -> None:
        """Raise an error if all samples are bad."""
        self.dataset.check_usable()

    def __getitem__(self, index: int) -> list[dict[str, Tensor]]:
        """The samples of one row, each as an item of `TrainingDataset`."""
        return [self.dataset[sample] for sample in self.rows[index]]

"""Samples as one batch."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mgm.data.conversation import IGNORED
from mgm.data.padding import attention_mask, pad_rows
from mgm.data.processor import MGMProcessor
from mgm.errors import MGMError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Collator:
    """Pads the samples of a `ConversationDataset` and puts their images in one row.

    A sample that is longer than `max_length` loses its end. A limit that falls inside an image
    takes that image out as a whole, with everything behind it, and a warning says so.

    Attributes:
        pad_token_id: fills shorter rows.
        image_token_id: the id at image positions.
        image_tokens_per_image: positions of one image.
        max_length: positions of a sample, image positions included; None for no limit.
        padding_side: "right" or "left".

    Raises:
        MGMError: not even one image fits into `max_length`.
    """

    pad_token_id: int
    image_token_id: int
    image_tokens_per_image: int
    max_length: int | None = None
    padding_side: str = "right"

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length <= self.image_tokens_per_image:
            raise MGMError(
                f"model_max_length is {self.max_length}, but one image takes "
                f"{self.image_tokens_per_image} positions; allow more"
            )

    @classmethod
    def of(
        cls, processor: MGMProcessor, max_length: int | None = None, padding_side: str = "right"
    ) -> "Collator":
        """The collator for the samples that `processor` makes."""
        return cls(
            pad_token_id=processor.tokenizer.pad_token_id or 0,
            image_token_id=processor.image_token_id,
            image_tokens_per_image=processor.image_tokens_per_image,
            max_length=max_length,
            padding_side=padding_side,
        )

    def __call__(self, samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Make a batch.

        Returns:
            `input_ids`, `labels` and `attention_mask` (batch, length); with images also
            `pixel_values` (images, crops, 3, S, S) and `pixel_values_aux` (images, 3, A, A), the
            images of all samples in the order of their markers.
        """
        samples = [self._truncate(sample) for sample in samples]
        rows = [sample["input_ids"] for sample in samples]
        labels = [sample["labels"] for sample in samples]
        batch = {
            "input_ids": pad_rows(rows, self.pad_token_id, self.padding_side),
            "labels": pad_rows(labels, IGNORED, self.padding_side),
            "attention_mask": attention_mask([len(row) for row in rows], self.padding_side),
        }
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
        places = (ids == self.image_token_id).nonzero().flatten()
        starts = places[:: self.image_tokens_per_image].tolist()
        kept = [start for start in starts if start + self.image_tokens_per_image <= end]
        if len(kept) < len(starts):
            end = min(end, starts[len(kept)])
            logger.warning(
                "a sample of %d positions is cut to %d: image %d of %d does not fit into "
                "model_max_length %d and is left out with what follows it",
                len(ids),
                end,
                len(kept) + 1,
                len(starts),
                self.max_length,
            )
        cut = {name: sample[name][:end] for name in ("input_ids", "labels")}
        images = ("pixel_values", "pixel_values_aux")
        return cut | {name: sample[name][: len(kept)] for name in images if name in sample}

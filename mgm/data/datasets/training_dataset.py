"""Map-style training dataset: checks that image files exist, and can skip bad samples."""

import os

import numpy as np
import torch
from torch import Tensor

from mgm.data.datasets.conversation_dataset import ConversationDataset
from mgm.data.images.missing_files import missing_images
from mgm.data.images.orientation import STORED
from mgm.data.processing_mgm import MGMProcessor
from mgm.data.sources.bad_samples import (
    MISSING_IMAGE,
    BadSample,
    BadSamples,
    bad_sample,
    nothing_usable,
)
from mgm.errors import MGMError


class TrainingDataset(ConversationDataset):
    """A `ConversationDataset` that checks for missing image files when opened; skips bad samples.

    Args:
        path: a JSON file with a list of samples, a JSONL file, or a table
            (`mgm.data.sources.hf_table.is_table`).
        processor: the model's processor.
        image_folder: folder that image paths are relative to; default: the folder of `path`.
        bad_samples: list of unusable samples, which are skipped; None: they raise.
        config: configuration of a data set of the hub.
        split: split of a data set.
        orientation: orientation of images.

    Raises:
        MGMError: the file or a sample is malformed, or an image file is missing.
    """

    source_names = ()  # there is one

    def __init__(
        self,
        path: str | os.PathLike[str],
        processor: MGMProcessor,
        image_folder: str | os.PathLike[str] | None = None,
        bad_samples: BadSamples | None = None,
        config: str | None = None,
        split: str = "train",
        orientation: str = STORED,
    ) -> None:
        super().__init__(
            path,
            processor,
            image_folder,
            bad_samples=bad_samples,
            config=config,
            split=split,
            orientation=orientation,
        )
        self._check_files()

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """An item of `ConversationDataset` with `index`, the sample's index in the file.

        A skipped bad sample has `index` only.
        """
        file_index = self.file_index(index)
        entry = {"index": torch.tensor(file_index)}
        try:
            return super().__getitem__(index) | entry
        except MGMError as error:
            if self.bad_samples is None:
                raise
            self.bad_samples.add(bad_sample(self.path, file_index, error))
            return entry

    def check_usable(self) -> None:
        """Raise an error if all samples are bad.

        Raises:
            MGMError: counts the bad samples by kind.
        """
        if bad := self.all_bad:
            raise nothing_usable(self.path, bad)

    @property
    def all_bad(self) -> list[BadSample]:
        """The bad samples, if all samples of the file are bad; else empty."""
        if self.bad_samples is None:
            return []
        bad = self.bad_samples.entries([str(self.path)])
        return bad if len(bad) == len(self.samples) + len(self._malformed) else []

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of the data files, as in `BadSample.file`."""
        return (str(self.path),)

    def location(self, index: int) -> tuple[str, int]:
        """File of a sample and its index in the file, as in `BadSample`."""
        return str(self.path), self.file_index(index)

    @property
    def skipped(self) -> int:
        """Number of samples that were skipped when the data was opened."""
        return len(self.samples) + len(self._malformed) - len(self.rows)

    def label(self, index: int) -> str:
        """The name in reports of the sample with an `index`."""
        return str(index)

    def _check_files(self) -> None:
        indices = self.image_counts.nonzero()[0].tolist()
        names = ((index, self.samples.index.image_names(index)) for index in indices)
        missing, count = missing_images(names, self.image_folder)
        if not missing:
            return
        if self.bad_samples is None:
            index, reason = next(iter(missing.items()))
            raise MGMError(
                f"{self.path}: sample {self.file_index(index)}, {reason} ({count} of all "
                f"{self.image_counts.sum()} are missing); check the path and --image_folder"
            )
        bad = []
        for index, reason in missing.items():
            file_index = self.file_index(index)
            text = f"{self.path}: sample {file_index}, {reason}; check --image_folder"
            bad.append(BadSample(str(self.path), file_index, MISSING_IMAGE, text))
        self.rows = np.setdiff1d(self.rows, list(missing))
        self._skip(bad if len(self.rows) else [*self._malformed, *bad])

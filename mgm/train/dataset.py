"""The samples of a run: their images are there, and they know their place in the file."""

import os
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mgm.data.dataset import ConversationDataset
from mgm.data.processor import MGMProcessor
from mgm.data.quarantine import Quarantine
from mgm.errors import MGMError


class TrainingDataset(ConversationDataset):
    """A `ConversationDataset` that misses its images before the first step, and not hours later.

    Args:
        path: a JSON file with a list of samples, a .jsonl file with one in each line, or a table
            (`mgm.data.table.is_table`).
        processor: the model's processor.
        image_folder: where the files' image paths begin; by default the folder of `path`.
        quarantine: lists samples that cannot be used, which are left out; None: one ends the run.
        config: of a data set on the hub: which part.
        split: of a data set.

    Raises:
        MGMError: the file or a sample is malformed, or an image file is not there.
    """

    source_names = ()  # there is one

    def __init__(
        self,
        path: str | os.PathLike[str],
        processor: MGMProcessor,
        image_folder: str | os.PathLike[str] | None = None,
        quarantine: Quarantine | None = None,
        config: str | None = None,
        split: str = "train",
    ) -> None:
        super().__init__(path, processor, image_folder, None, quarantine, config, split)
        self._check_files()

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """As of `ConversationDataset`, and `index`, which reports about the sample name.

        Of a sample whose image is damaged, under quarantine: nothing but `index`.
        """
        number = self.place(index)
        place = {"index": torch.tensor(number)}
        try:
            return super().__getitem__(index) | place
        except MGMError as fault:
            if self.quarantine is None:
                raise
            self.quarantine.add(number, str(fault))
            return place

    def label(self, index: int) -> str:
        """What reports call the sample whose `index` this is."""
        return str(index)

    def _check_files(self) -> None:
        # Whole folders, since asking for file after file is slow on a network; 2 s for 600,000.
        listing = cache(_listing)
        missing: list[tuple[int, int, str]] = []
        for index in self.image_counts.nonzero()[0].tolist():
            for number, image in enumerate(self.samples.index.image_names(index), start=1):
                file = os.path.join(self.image_folder, image)  # noqa: PTH118  a Path is slower
                folder, name = os.path.split(file)
                # A file system that ignores case lists another name than the sample has.
                if name not in listing(folder) and not Path(file).exists():
                    missing.append((index, number, file))
        if missing and self.quarantine is not None:
            self._leave_out_missing(missing)
        elif missing:
            index, number, file = missing[0]
            place = f"sample {self.place(index)}, image {number} of {self.image_counts[index]}"
            total = self.image_counts.sum()
            raise MGMError(
                f"{self.path}: {place}: {file}: there is no such file "
                f"({len(missing)} of all {total} are missing); check the path and --image_folder"
            )

    def _leave_out_missing(self, missing: list[tuple[int, int, str]]) -> None:
        absent: dict[int, str] = {}
        for index, number, file in missing:
            absent.setdefault(index, f"image {number}: {file}: there is no such file")
        for index, reason in absent.items():
            self._leave_out(self.place(index), reason)
        kept = np.setdiff1d(self.rows, list(absent))
        if not len(kept):
            raise MGMError(
                f"{self.path}: no sample has all its images under {self.image_folder}; check "
                "--image_folder"
            )
        self.rows = kept


def _listing(folder: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))  # noqa: PTH208  names are all that is needed
    except OSError:
        return frozenset()

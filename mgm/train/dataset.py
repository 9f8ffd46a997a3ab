"""The samples of a run: their images are there, and they know their place in the file."""

import os
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from mgm.data.dataset import ConversationDataset
from mgm.data.processor import MGMProcessor
from mgm.errors import MGMError


class TrainingDataset(ConversationDataset):
    """A `ConversationDataset` that misses its images before the first step, and not hours later.

    Args:
        path: a JSON file with a list of samples, or a .jsonl file with one in each line.
        processor: the model's processor.
        image_folder: where the files' image paths begin; by default the folder of `path`.

    Raises:
        MGMError: the file or a sample is malformed, or an image file is not there.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        processor: MGMProcessor,
        image_folder: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(path, processor, image_folder)
        self._check_files()

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """As of `ConversationDataset`, and `index`, which reports about the sample name."""
        return super().__getitem__(index) | {"index": torch.tensor(index)}

    def _check_files(self) -> None:
        # Whole folders, since asking for file after file is slow on a network; 2 s for 600,000.
        listing = cache(_listing)
        missing = []
        for index, sample in enumerate(self.samples):
            for number, image in enumerate(sample.images, start=1):
                file = os.path.join(self.image_folder, image)  # noqa: PTH118  a Path is slower
                folder, name = os.path.split(file)
                # A file system that ignores case lists another name than the sample has.
                if name not in listing(folder) and not Path(file).exists():
                    missing.append((index, number, file))
        if missing:
            index, number, file = missing[0]
            place = f"sample {index}, image {number} of {len(self.samples[index].images)}"
            total = sum(len(sample.images) for sample in self.samples)
            raise MGMError(
                f"{self.path}: {place}: {file}: there is no such file "
                f"({len(missing)} of all {total} are missing); check the path and --image_folder"
            )


def _listing(folder: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))  # noqa: PTH208  names are all that is needed
    except OSError:
        return frozenset()

"""Map-style dataset of a mixture: samples of several data files, repeated by their weights."""

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mgm.data.datasets.training_dataset import TrainingDataset
from mgm.data.images.orientation import STORED
from mgm.data.processing_mgm import MGMProcessor
from mgm.data.sources.bad_samples import BadSample, BadSamples, nothing_usable
from mgm.data.sources.mixture_config import MixtureSource
from mgm.data.sources.sample import Sample
from mgm.errors import MGMError

logger = logging.getLogger(__name__)


class MixedDataset(Dataset[dict[str, Tensor]]):
    """The samples of a mixture, the same in every epoch; the interface of `TrainingDataset`.

    Args:
        path: of the mixture, for reports.
        sources: its files.
        processor: the model's processor.
        image_folder: of sources that name none; None: the folder of each.
        bad_samples: lists samples that cannot be used, which are skipped; None: one ends the run.
        seed: of which samples are seen once more, where a weight has a fraction.
        orientation: of images.
    """

    def __init__(
        self,
        path: Path,
        sources: Sequence[MixtureSource],
        processor: MGMProcessor,
        image_folder: str | None = None,
        bad_samples: BadSamples | None = None,
        seed: int = 0,
        orientation: str = STORED,
    ) -> None:
        self.orientation, self.bad_samples = orientation, bad_samples
        self.path, self.processor, self.sources = path, processor, sources
        self.parts: list[TrainingDataset] = []
        of_part, of_row = [], []
        draw = np.random.default_rng(seed)
        for number, source in enumerate(sources):
            folder = source.image_folder or image_folder
            part = TrainingDataset(
                *(source.path, processor, folder, bad_samples),
                *(source.config, source.split, orientation),
            )
            times, fraction = divmod(source.weight, 1)
            more = draw.permutation(len(part))[: round(fraction * len(part))]
            rows = np.concatenate([*[np.arange(len(part))] * int(times), np.sort(more)])
            logger.info("%s: %d samples, %d an epoch", source.name, len(part), len(rows))
            self.parts.append(part)
            of_part.append(np.full(len(rows), number))
            of_row.append(rows)
            if len(part) and not len(rows):
                logger.warning(
                    "%s: %s teaches nothing, for its weight %g is less than one of its %d samples",
                    *(path, source.name, source.weight, len(part)),
                )
        if not any(map(len, of_row)):
            raise MGMError(f"{path}: no dataset gives a sample; give larger weights")
        self.part_of, self.row_of = np.concatenate(of_part), np.concatenate(of_row)

    def __len__(self) -> int:
        return len(self.part_of)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """As of `TrainingDataset`; `index` is the index in the mixture, `source` its file's."""
        part, row = self._find(index)
        return part[row] | {
            "index": torch.tensor(range(len(self))[index]),
            "source": torch.tensor(self.part_of[index]),
        }

    @property
    def source_names(self) -> tuple[str, ...]:
        """What reports call the files."""
        return tuple(source.name for source in self.sources)

    def label(self, index: int) -> str:
        """What reports call a sample."""
        part, row = self._find(index)
        return f"{part.file_index(row)} of {self.sources[self.part_of[index]].name}"

    @property
    def files(self) -> tuple[str, ...]:
        """The data files, as `BadSample` has them."""
        return tuple(str(part.path) for part in self.parts)

    def location(self, index: int) -> tuple[str, int]:
        """File of a sample and its index there, as `BadSample` has them."""
        part, row = self._find(index)
        return part.location(row)

    @property
    def skipped(self) -> int:
        """How many samples of all files were skipped when they were opened."""
        return sum(part.skipped for part in self.parts)

    def check_usable(self) -> None:
        """Find out whether all samples of all files turned out to be bad.

        Raises:
            MGMError: they did; says what is wrong with them.
        """
        bad: list[BadSample] = []
        for part in self.parts:
            if not part.all_bad:
                return
            bad += part.all_bad
        raise nothing_usable(self.path, bad)

    def sample(self, index: int) -> tuple[Sample, Path]:
        """One sample as it was read, and where its image paths begin."""
        part, row = self._find(index)
        return part.sample(row)

    def encode(self, index: int) -> tuple[list[int], list[int]]:
        """Ids and labels of one sample, without opening its images."""
        part, row = self._find(index)
        return part.encode(row)

    @property
    def image_counts(self) -> np.ndarray:
        """Images of each sample."""
        return self._joined([part.image_counts for part in self.parts])

    @cached_property
    def lengths(self) -> list[int]:
        """Positions of each sample, image positions included."""
        return self._joined([np.array(part.lengths) for part in self.parts]).tolist()

    @property
    def modality_lengths(self) -> list[int]:
        """Words of each sample, negative without image."""
        return self._joined([np.array(part.modality_lengths) for part in self.parts]).tolist()

    def _joined(self, of_parts: Sequence[np.ndarray]) -> np.ndarray:
        begins = np.cumsum([0, *map(len, of_parts)])[:-1]
        return np.concatenate(of_parts)[begins[self.part_of] + self.row_of]

    def _find(self, index: int) -> tuple[TrainingDataset, int]:
        return self.parts[self.part_of[index]], int(self.row_of[index])

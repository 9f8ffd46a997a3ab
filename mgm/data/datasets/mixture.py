"""Map-style dataset of a mixture: samples of several data files, repeated according to weights."""

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
        path: path of the mixture, for reports.
        sources: its data files.
        processor: the model's processor.
        image_folder: image folder of sources without one; None: the folder of each source.
        bad_samples: list of unusable samples, which are skipped; None: they raise.
        seed: seed for the choice of samples that the fraction of a weight repeats.
        orientation: orientation of images.
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
                    "%s: %s is not used: its weight %g selects none of its %d samples",
                    *(path, source.name, source.weight, len(part)),
                )
        if not any(map(len, of_row)):
            raise MGMError(f"{path}: the weights select no samples; give larger weights")
        self.part_of, self.row_of = np.concatenate(of_part), np.concatenate(of_row)

    def __len__(self) -> int:
        return len(self.part_of)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """An item as of `TrainingDataset`: `index` in the mixture, `source` of its file."""
        part, row = self._find(index)
        return part[row] | {
            "index": torch.tensor(range(len(self))[index]),
            "source": torch.tensor(self.part_of[index]),
        }

    @property
    def source_names(self) -> tuple[str, ...]:
        """Names of the data files in reports."""
        return tuple(source.name for source in self.sources)

    def label(self, index: int) -> str:
        """The name in reports of the sample with an `index`."""
        part, row = self._find(index)
        return f"{part.file_index(row)} of {self.sources[self.part_of[index]].name}"

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of the data files, as in `BadSample.file`."""
        return tuple(str(part.path) for part in self.parts)

    def location(self, index: int) -> tuple[str, int]:
        """File of a sample and its index in the file, as in `BadSample`."""
        part, row = self._find(index)
        return part.location(row)

    @property
    def skipped(self) -> int:
        """Number of samples that were skipped when the files were opened."""
        return sum(part.skipped for part in self.parts)

    def check_usable(self) -> None:
        """Raise an error if all samples of all files are bad.

        Raises:
            MGMError: counts the bad samples by kind.
        """
        bad: list[BadSample] = []
        for part in self.parts:
            if not part.all_bad:
                return
            bad += part.all_bad
        raise nothing_usable(self.path, bad)

    def sample(self, index: int) -> tuple[Sample, Path]:
        """One sample before tokenisation, and the folder that its image paths are relative to."""
        part, row = self._find(index)
        return part.sample(row)

    def encode(self, index: int) -> tuple[list[int], list[int]]:
        """Token ids and labels of one sample, without decoding its images."""
        part, row = self._find(index)
        return part.encode(row)

    @property
    def image_counts(self) -> np.ndarray:
        """Number of images of each sample."""
        return self._joined([part.image_counts for part in self.parts])

    @cached_property
    def lengths(self) -> list[int]:
        """Number of tokens of each sample, image tokens included."""
        return self._joined([np.array(part.lengths) for part in self.parts]).tolist()

    @property
    def modality_lengths(self) -> list[int]:
        """Number of words of each sample, negative without image."""
        return self._joined([np.array(part.modality_lengths) for part in self.parts]).tolist()

    def _joined(self, of_parts: Sequence[np.ndarray]) -> np.ndarray:
        begins = np.cumsum([0, *map(len, of_parts)])[:-1]
        return np.concatenate(of_parts)[begins[self.part_of] + self.row_of]

    def _find(self, index: int) -> tuple[TrainingDataset, int]:
        return self.parts[self.part_of[index]], int(self.row_of[index])

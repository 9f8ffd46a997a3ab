"""A data set whose items are rows of several samples."""

import logging

from torch import Tensor
from torch.utils.data import Dataset

from mgm.data.packing import pack
from mgm.train.dataset import TrainingDataset
from mgm.train.mixed_dataset import MixedDataset

logger = logging.getLogger(__name__)


class PackedDataset(Dataset[list[dict[str, Tensor]]]):
    """Rows of a `TrainingDataset`, the same in every epoch; the sampler changes their order.

    Args:
        dataset: the samples.
        limit: positions of a row.
        seed: of what comes together.
    """

    def __init__(self, dataset: TrainingDataset | MixedDataset, limit: int, seed: int) -> None:
        self.dataset = dataset
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
        """What reports call the sources, where there are several."""
        return self.dataset.source_names

    def label(self, index: int) -> str:
        """What reports call the sample whose `index` this is."""
        return self.dataset.label(index)

    def __getitem__(self, index: int) -> list[dict[str, Tensor]]:
        """The samples of one row, each as of `TrainingDataset`."""
        return [self.dataset[sample] for sample in self.rows[index]]

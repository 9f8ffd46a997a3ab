"""Map-style dataset of a conversation file; samples are read and tokenised on access."""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mgm.data.images.loading import open_data_image
from mgm.data.images.orientation import STORED
from mgm.data.processing_mgm import MGMProcessor
from mgm.data.sources.bad_samples import (
    BadSample,
    BadSamples,
    nothing_usable,
)
from mgm.data.sources.hf_table import TableFile, is_table, refuse_config_and_split
from mgm.data.sources.json.json_index import SampleFile
from mgm.data.sources.sample import Sample, SampleError
from mgm.data.sources.shards import TARS
from mgm.data.text.templates import ConversationTemplate, get_template
from mgm.errors import MGMError
from mgm.model.labels import IGNORE_INDEX


class ConversationDataset(Dataset[dict[str, Tensor]]):
    """Dataset of the conversations of a file, in any format of docs/data.md.

    The file is indexed and checked when it is opened (`SampleFile`); `__getitem__` reads one
    sample, tokenises its text and decodes its images.

    Args:
        path: a JSON file with a list of samples, a JSONL file, or a table
            (`mgm.data.sources.hf_table.is_table`).
        processor: the model's processor.
        image_folder: folder that image paths are relative to; default: the folder of `path`.
        conversation: name of the conversation template; default: the processor's.
        bad_samples: list of malformed samples, which are skipped; None: they raise.
        config: configuration of a data set of the hub.
        split: split of a data set.
        orientation: orientation of images, "stored" or "upright" (see `open_image`).

    Raises:
        MGMError: the file or a sample in it is malformed; names the file and the sample.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        processor: MGMProcessor,
        image_folder: str | os.PathLike[str] | None = None,
        conversation: str | None = None,
        bad_samples: BadSamples | None = None,
        config: str | None = None,
        split: str = "train",
        orientation: str = STORED,
    ) -> None:
        self.path, self.orientation = Path(path), orientation
        self.processor = processor
        self.image_folder = self.path.parent if image_folder is None else Path(image_folder)
        if self.image_folder.is_file():
            raise MGMError(f"{self.image_folder}: is a file; --image_folder names a folder")
        self.template = get_template(conversation or processor.conversation, processor.wrap_images)
        self.bad_samples = bad_samples
        self.samples = _open_samples(str(path), config, split)
        self.rows = np.arange(len(self.samples))  # indices into `samples` of the usable ones
        self._malformed = [
            BadSample(str(self.path), index, kind, error)
            for index, kind, error in self.samples.index.fault_list()
        ]
        self._skip(self._malformed)

    def __len__(self) -> int:
        return len(self.rows)

    def file_index(self, index: int) -> int:
        """Index in the file of one sample."""
        return int(self.samples.index.indices[self.rows[index]])

    @property
    def image_counts(self) -> np.ndarray:
        """Number of images of each sample."""
        return self.samples.index.images[self.rows]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One sample.

        Returns:
            `input_ids` and `labels` (length), image markers expanded, labels `IGNORE_INDEX` at
            unsupervised tokens; with images also `pixel_values_aux` (images, 3, A, A) in uint8,
            from which the model computes the views of both encoders.

        Raises:
            MGMError: an image is missing or damaged; names the file, the sample and the image.
        """
        where = f"{self.path}: sample {self.file_index(index)}"
        sample, folder = self.sample(index)
        return sample_tensors(
            *(sample, self.processor, self.template, folder, where), orientation=self.orientation
        )

    def sample(self, index: int) -> tuple[Sample, Path]:
        """One sample before tokenisation, and the folder that its image paths are relative to."""
        return self.samples[int(self.rows[index])], self.image_folder

    def _skip(self, bad: Sequence[BadSample]) -> None:
        """Add the bad samples found while the data was opened to the list.

        Raises:
            MGMError: bad samples are not skipped, or no usable sample is left.
        """
        if bad and self.bad_samples is None:
            raise MGMError(bad[0].reason)
        if not len(self.rows):
            raise nothing_usable(self.path, bad)
        if self.bad_samples is not None and self.bad_samples.lists_data_files:
            self.bad_samples.add(*bad)

    @cached_property
    def modality_lengths(self) -> list[int]:
        """Number of words of each sample, negative without image, for `group_by_modality_length`.

        Image tokens after the first image's are added, since they dominate padding.
        """
        # Compat: tokens of the first image do not count, as in published training orders.
        words, images = self.samples.index.words[self.rows], self.image_counts
        longer = words + self.processor.image_tokens_per_image * (images - 1)
        return np.where(images > 0, longer, -words).tolist()

    @cached_property
    def lengths(self) -> list[int]:
        """Number of tokens of each sample, image tokens included; tokenises all samples."""
        return [len(self.encode(index)[0]) for index in range(len(self))]

    def encode(self, index: int) -> tuple[list[int], list[int]]:
        """Token ids and labels of one sample, without decoding its images."""
        sample, _ = self.sample(index)
        return self.processor.encode_segments(sample.segments(self.template))


def _open_samples(path: str, config: str | None, split: str) -> SampleFile | TableFile:
    if needs_streaming(path):
        raise MGMError(f"{path}: is read as a stream; train with --streaming True --max_steps N")
    if is_table(path):
        return TableFile(path, config, split)
    refuse_config_and_split(path, config, split)
    return SampleFile(Path(path))


def needs_streaming(path: str) -> bool:
    """Whether a data path can only be read with `--streaming`: a tar, or a URL."""
    return path.endswith(TARS) or "://" in path


def sample_tensors(
    sample: Sample,
    processor: MGMProcessor,
    template: ConversationTemplate,
    image_folder: Path,
    where: str,
    encoded: tuple[list[int], list[int]] | None = None,
    orientation: str = STORED,
) -> dict[str, Tensor]:
    """The tensors of a sample, as in an item of `ConversationDataset`.

    Args:
        sample: a conversation with its images.
        processor: the model's processor.
        template: conversation template.
        image_folder: folder that image paths are relative to.
        where: prefix of errors.
        encoded: its token ids and labels, if they are already computed.
        orientation: orientation of images.

    Raises:
        MGMError: an image is missing or damaged.
    """
    ids, labels = encoded or processor.encode_segments(sample.segments(template))
    if not any(label != IGNORE_INDEX for label in labels[1:]):  # no logits predict the first token
        raise SampleError(
            f"{where}: its answers are empty, so that no token is supervised; remove it",
            "no answer",
        )
    tensors = {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}
    if sample.images:
        images = [
            open_data_image(image, f"{where}, image {number} of {len(sample.images)}", orientation)
            for number, image in enumerate(sample.image_sources(image_folder), start=1)
        ]
        tensors |= processor.image_processor(images, do_normalize=False)
    return tensors

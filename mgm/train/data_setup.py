"""Builds training and validation datasets and the collator from the training arguments."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mgm.data.datasets.collator import Collator
from mgm.data.datasets.conversation_dataset import needs_streaming
from mgm.data.datasets.mixture import MixedDataset
from mgm.data.datasets.packing import PackedCollator, PackedDataset
from mgm.data.datasets.stream_order import Order
from mgm.data.datasets.streaming import StreamCollator, StreamedDataset
from mgm.data.datasets.training_dataset import TrainingDataset
from mgm.data.processing_mgm import MGMProcessor
from mgm.data.sources.bad_samples import BadSamples
from mgm.data.sources.mixture_config import MixtureSource, read_mixture
from mgm.errors import MGMError
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.train.args.validation import Arguments
from mgm.train.callbacks.validation import ValidationSet

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataModule:
    """Datasets and collator of a run.

    Attributes:
        samples: the samples of a file or a mixture, or the stream.
        train_dataset: for the DataLoader: the samples, packed rows of them, or the stream.
        collator: pads batches of samples; counts truncated samples.
        collate_fn: for the DataLoader: the collator, or that of packed rows or of a stream.
        validation_set: validation set of `--eval_data_path`, if given.
    """

    samples: TrainingDataset | MixedDataset | StreamedDataset
    train_dataset: TrainingDataset | MixedDataset | PackedDataset | StreamedDataset
    collator: Collator
    collate_fn: Callable[..., dict[str, Any]]
    validation_set: ValidationSet | None = None

    @classmethod
    def from_arguments(
        cls,
        arguments: Arguments,
        model: MGMForConditionalGeneration,
        processor: MGMProcessor,
        bad_samples: BadSamples | None = None,
    ) -> "DataModule":
        """Open the datasets of `--data_path` and `--eval_data_path`.

        Args:
            arguments: the flags.
            model: its config has `model_max_length`.
            processor: the model's.
            bad_samples: list of bad samples, which are then skipped; None: one raises.

        Raises:
            MGMError: the data is missing or malformed.
        """
        packing, limit = arguments[2].packing, model.config.model_max_length
        if packing and limit is None:
            raise MGMError("--packing needs --model_max_length, the length of a row")
        samples = _open_dataset(arguments, processor, bad_samples, limit)
        collator = replace(Collator.of(processor, limit), label=samples.label)
        collate = PackedCollator(collator) if packing else collator
        validation_set = _validation_set(arguments, processor, bad_samples, limit)
        if isinstance(samples, StreamedDataset):
            return cls(samples, samples, collator, StreamCollator(collate), validation_set)
        train_dataset = samples
        if packing and limit is not None:
            train_dataset = PackedDataset(samples, limit, arguments[2].order_seed)
        return cls(samples, train_dataset, collator, collate, validation_set)

    @property
    def description(self) -> str:
        """The number of samples or shards, for the log."""
        if isinstance(self.samples, StreamedDataset):
            return f"a stream of {len(self.samples.names)} shards"
        return f"{len(self.samples)} samples"

    def check_images(self, model: MGMForConditionalGeneration) -> None:
        """Check, before the first step, that images fit and that samples without image can train.

        Raises:
            MGMError: an image exceeds `model_max_length`, or no sample has an image in stage 1.
        """
        samples = self.samples
        counts = None if isinstance(samples, StreamedDataset) else samples.image_counts
        limit, length = model.config.model_max_length, samples.processor.image_tokens_per_image
        if (counts is None or counts.any()) and limit is not None and limit <= length:
            raise MGMError(
                f"model_max_length is {limit}, but one image takes {length} positions; raise it"
            )
        trained = any(part.requires_grad for part in model.language_model.parameters())
        if counts is None or trained or counts.all():
            return
        if not counts.any():
            raise MGMError(
                f"{samples.path}: no sample has an image, and the language model is not trained; "
                "keep samples without image for stage 2"
            )
        logger.warning(
            "%d of %d samples have no image and train nothing, because the language model is "
            "frozen",
            *(int((counts == 0).sum()), len(counts)),
        )


def _open_dataset(
    arguments: Arguments, processor: MGMProcessor, bad_samples: BadSamples | None, limit: int | None
) -> TrainingDataset | MixedDataset | StreamedDataset:
    """The dataset of one data file, a mixture of several, or a stream."""
    _, data, training = arguments
    sources = read_mixture(Path(data.data_path))
    if data.streaming:
        single = MixtureSource(data.data_path, config=data.data_config, split=data.data_split)
        order = Order(
            arguments[2].order_seed,
            training.train_batch_size,
            pack_to=limit if training.packing else None,
            by_length=training.group_by_length or training.group_by_modality_length,
        )
        reader = (training.process_index, training.world_size)
        return StreamedDataset(
            *(data.data_path, sources or [single], processor, order),
            *(data.image_folder, bad_samples, reader, data.image_orientation),
        )
    if sources is None:
        return TrainingDataset(
            *(data.data_path, processor, data.image_folder, bad_samples),
            *(data.data_config, data.data_split, data.image_orientation),
        )
    return MixedDataset(
        *(Path(data.data_path), sources, processor, data.image_folder, bad_samples),
        *(arguments[2].order_seed, data.image_orientation),
    )


def _validation_set(
    arguments: Arguments, processor: MGMProcessor, bad_samples: BadSamples | None, limit: int | None
) -> ValidationSet | None:
    """The validation set of `--eval_data_path`, if given."""
    data = arguments[1]
    if data.eval_data_path is None:
        return None
    path, folder = Path(data.eval_data_path), data.eval_image_folder
    sources = read_mixture(path)
    for name in [data.eval_data_path] if sources is None else [source.path for source in sources]:
        if needs_streaming(name):
            raise MGMError(
                f"--eval_data_path: {name} can only be streamed, and a validation set cannot "
                "be a stream; give its samples as JSON or parquet"
            )
    if sources is None:
        samples = TrainingDataset(
            *(data.eval_data_path, processor, folder, bad_samples),
            orientation=data.image_orientation,
        )
    else:
        samples = MixedDataset(
            *(path, sources, processor, folder, bad_samples), orientation=data.image_orientation
        )
    return ValidationSet(samples, Collator.of(processor, limit), data.eval_num_generations)

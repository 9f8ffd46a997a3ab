"""Sharded streaming dataset with deterministic shuffling and exact resume.

Each DataLoader worker of each process is a reader. It reads its share of each source's shards in
rounds, each round in another order, block by block. The order, batches and packed rows of a block
depend only on seed, reader and block, so that a cursor of a few numbers suffices to resume.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from mgm.data.datasets.collator import Collator, is_usable
from mgm.data.datasets.conversation_dataset import sample_tensors
from mgm.data.datasets.packing import PackedCollator, pack
from mgm.data.datasets.samplers import true_length_order
from mgm.data.datasets.stream_order import Order, SourcePosition, StreamedSample
from mgm.data.images.orientation import STORED
from mgm.data.processing_mgm import MGMProcessor
from mgm.data.sources.bad_samples import BadSample, BadSamples, bad_sample, nothing_usable
from mgm.data.sources.formats.record import parse_sample
from mgm.data.sources.mixture_config import MixtureSource
from mgm.data.sources.sample import Sample, SampleError
from mgm.data.sources.shards import Shard, records_of, shards_of
from mgm.data.text.templates import get_template
from mgm.errors import MGMError

MAX_SHARD_SAMPLES = 2**32  # a sample's `index` is shard * MAX_SHARD_SAMPLES + index in the shard


def stream_file(checkpoint: Path, process: int) -> Path:
    """Name of the file in a checkpoint with the read position of a process."""
    return checkpoint / f"stream-{process}.json"


class StreamedDataset(IterableDataset[tuple[Any, dict[str, Any]]]):
    """An endless stream of samples, or of packed rows, each with the cursor to resume after it.

    Args:
        path: data path, for reports.
        sources: data sets to read; weights are shares of the samples.
        processor: the model's processor.
        order: how blocks are shuffled, grouped or packed.
        image_folder: image folder of sources without one whose images are files.
        bad_samples: list of unusable samples, which are skipped; None: they raise.
        reader: rank of this process, and number of processes.
        orientation: orientation of images.

    Raises:
        MGMError: the data does not exist.
    """

    def __init__(
        self,
        path: str,
        sources: Sequence[MixtureSource],
        processor: MGMProcessor,
        order: Order,
        image_folder: str | None = None,
        bad_samples: BadSamples | None = None,
        reader: tuple[int, int] = (0, 1),
        orientation: str = STORED,
    ) -> None:
        self.orientation = orientation
        self.path, self.sources, self.processor = path, sources, processor
        self.order, self.bad_samples, self.reader = order, bad_samples, reader
        self.template = get_template(processor.conversation, processor.wrap_images)
        self.shards: list[list[Shard]] = [
            shards_of(source.path, source.config, source.split) for source in sources
        ]
        self.names = [shard.name for shards in self.shards for shard in shards]
        self.folders = [
            source.image_folder or Path(image_folder or Path(source.path).parent)
            for source in sources
        ]
        self.state: dict[str, Any] = {"workers": None, "next": 0, "cursors": {}}

    @property
    def source_names(self) -> tuple[str, ...]:
        """Names of the data sets in reports, if there are several."""
        names = tuple(source.name for source in self.sources)
        return names if len(names) > 1 else ()

    def label(self, index: int) -> str:
        """The name in reports of the sample with an `index`."""
        shard, number = divmod(index, MAX_SHARD_SAMPLES)
        return f"{number} of {self.names[shard]}"

    def listed(self, source: int | None = None) -> list[BadSample]:
        """The bad samples listed so far, of one source or of all sources."""
        if self.bad_samples is None:
            return []
        shards = self.names if source is None else [one.name for one in self.shards[source]]
        return self.bad_samples.entries(shards)

    def check_usable(self) -> None:
        """Does nothing: the number of samples is unknown, and readers check as they read."""

    def record_cursor(self, cursor: Mapping[str, Any]) -> None:
        """Record the cursor of a batch that was trained on; a checkpoint resumes after it."""
        workers = cursor["workers"]
        self.state["workers"] = workers
        self.state["next"] = (cursor["worker"] + 1) % workers
        self.state["cursors"][str(cursor["worker"])] = cursor

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the `state` of a stream in an earlier run."""
        self.state = state

    def __iter__(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        info = get_worker_info()
        workers, worker_id = (info.num_workers, info.id) if info else (1, 0)
        before = self.state["workers"]
        if before not in (None, workers):
            raise MGMError(
                f"--dataloader_num_workers: was {before} before, now {workers}; set it to {before} "
                "to resume the stream"
            )
        # The DataLoader takes batches from its workers in turn; start with the one that is next.
        worker = (self.state["next"] + worker_id) % workers
        cursor = self.state["cursors"].get(str(worker), {})
        number, count = self.reader
        reader = _Reader(self, number * workers + worker, count * workers)
        ids = {"worker": worker, "workers": workers}
        for item, next_cursor in reader.items(cursor):
            yield item, ids | next_cursor


class _Reader:
    """One DataLoader worker's share of a stream."""

    def __init__(self, stream: StreamedDataset, number: int, count: int) -> None:
        self.stream, self.number, self.count = stream, number, count

    def items(self, cursor: Mapping[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Samples or packed rows after a cursor, each with the cursor to resume after it."""
        stream = self.stream
        block, done = cursor.get("block", 0), cursor.get("done", 0)
        # Checkpoints of earlier versions have the second key.
        saved = cursor.get("positions", cursor.get("places"))
        saved = [(0, 0, 0)] * len(stream.shards) if saved is None else saved
        positions = [SourcePosition(*position) for position in saved]
        samples = [self._source(number, position) for number, position in enumerate(positions)]
        weights = [source.weight for source in stream.sources]
        size = stream.order.block
        usable = bool(cursor)  # whether a usable sample was read; a cursor implies one
        while True:
            start = [astuple(position) for position in positions]
            draw = random.Random(f"{stream.order.seed} {self.number} {block}")
            chosen = draw.choices(range(len(samples)), weights, k=size)
            # Positions advance as samples are read; no sample is read before its block.
            items = self._ordered([next(samples[source]) for source in chosen], draw)
            for count, item in enumerate(items, start=1):
                if count > done:
                    next_cursor = {"block": block, "done": count, "positions": start}
                    tensors = self._tensors_of(item)
                    parts = tensors if isinstance(tensors, list) else [tensors]
                    usable = usable or any(map(is_usable, parts))
                    yield tensors, next_cursor
            if not usable and all(position.round for position in positions):  # all were read
                raise nothing_usable(stream.path, stream.listed())
            block, done = block + 1, 0

    def _source(self, number: int, position: SourcePosition) -> Iterator[StreamedSample]:
        """The samples of a source from `position`, which is advanced with each sample."""
        stream = self.stream
        shards = stream.shards[number]
        first = sum(map(len, stream.shards[:number]))
        # With fewer shards than readers, each reads all shards and takes every n-th sample.
        alone = len(shards) >= self.count
        mine = range(self.number if alone else 0, len(shards), self.count if alone else 1)
        step, offset = (1, 0) if alone else (self.count, self.number)
        while True:
            order = list(mine)
            random.Random(f"{stream.order.seed} {number} {position.round}").shuffle(order)
            first_position, usable = (position.shard, position.sample), 0
            for shard in order[position.shard :]:
                start = position.sample
                for index, record in enumerate(records_of(shards[shard], start), start=start):
                    position.sample = index + 1
                    if index % step == offset:
                        sample = self._checked(record, number, shards[shard], first + shard, index)
                        if sample is not None:
                            usable += 1
                            yield sample
                position.shard, position.sample = position.shard + 1, 0
            if not usable and first_position == (0, 0):
                raise self._nothing_usable(number)
            position.round, position.shard = position.round + 1, 0

    def _checked(
        self, record: Any, source: int, shard: Shard, shard_number: int, number: int
    ) -> StreamedSample | None:
        try:
            sample = parse_sample(record, f"{shard.name}: sample {number}")
        except SampleError as fault:
            self._skip(shard.name, number, fault)
            return None
        return StreamedSample(sample, source, shard_number, number)

    def _skip(self, shard: str, number: int, fault: MGMError) -> None:
        if self.stream.bad_samples is None:
            raise fault
        self.stream.bad_samples.add(bad_sample(shard, number, fault))

    def _nothing_usable(self, source: int) -> MGMError:
        """The error for a source without a usable sample for this reader."""
        path = self.stream.sources[source].path
        if bad := self.stream.listed(source):
            return nothing_usable(path, bad)
        return MGMError(
            f"{path}: no usable samples for reader {self.number + 1} of {self.count}; "
            "give more, or fewer processes"
        )

    def _ordered(self, block: list[StreamedSample], draw: random.Random) -> list[Any]:
        """Samples, or lists of the samples of packed rows, in training order."""
        order, seed = self.stream.order, draw.getrandbits(32)
        generator = torch.Generator().manual_seed(seed)
        if order.pack_to is None and not order.by_length:
            return [block[index] for index in torch.randperm(len(block), generator=generator)]
        images = [len(item.sample.images) for item in block]
        block = [replace(item, encoded=self._encode(item.sample)) for item in block]
        lengths = [len(item.encoded[0]) if item.encoded else 0 for item in block]
        if order.pack_to is None:
            with_image = [count > 0 for count in images]
            indices = true_length_order(lengths, with_image, order.batch_size, generator)
            return [block[index] for index in indices]
        rows = pack(lengths, images, order.pack_to, seed)
        shuffled = torch.randperm(len(rows), generator=generator).tolist()
        return [[block[index] for index in rows[row]] for row in shuffled]

    def _encode(self, sample: Sample) -> tuple[list[int], list[int]]:
        stream = self.stream
        return stream.processor.encode_segments(sample.segments(stream.template))

    def _tensors_of(self, item: Any) -> Any:
        if isinstance(item, list):
            return [self._tensors(part) for part in item]
        return self._tensors(item)

    def _tensors(self, item: StreamedSample) -> dict[str, Tensor]:
        """The tensors of a sample, as in an item of `TrainingDataset`."""
        stream = self.stream
        index = {"index": torch.tensor(item.shard * MAX_SHARD_SAMPLES + item.number)}
        if stream.source_names:
            index["source"] = torch.tensor(item.source)
        where = f"{stream.names[item.shard]}: sample {item.number}"
        try:
            return index | sample_tensors(
                *(item.sample, stream.processor, stream.template),
                *(stream.folders[item.source], where, item.encoded, stream.orientation),
            )
        except MGMError as fault:
            self._skip(stream.names[item.shard], item.number, fault)
            return index


@dataclass(frozen=True)
class StreamCollator:
    """Collator of a `StreamedDataset`: adds the last item's `cursor` to the batch.

    Attributes:
        collator: collator for samples or packed rows.
    """

    collator: Collator | PackedCollator

    def __call__(self, pairs: Sequence[tuple[Any, dict[str, Any]]]) -> dict[str, Any]:
        """Make a batch."""
        items, cursors = zip(*pairs, strict=True)
        return {**self.collator(items), "cursor": cursors[-1]}

    def report(self) -> None:
        """Log how many samples were truncated or had no label."""
        self.collator.report()

"""Samples that are read from shards as they come, never all at once, and never in an order by luck.

Every process, and in it every worker of the data loader, is a reader of its own: it takes its share
of each source's shards, round after round, each in another order, and goes on block by block. What
is drawn of a block (its order, its batches, its packed rows) depends on seed, reader and block
alone, so that a cursor of a few numbers says exactly where a stopped run goes on.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from mgm.data.datasets.collator import Collator, is_usable
from mgm.data.datasets.conversation_dataset import sample_tensors
from mgm.data.datasets.packing import PackedCollator, pack
from mgm.data.datasets.samplers import true_length_order
from mgm.data.datasets.stream_order import Found, Order, Place
from mgm.data.images.orientation import STORED
from mgm.data.processing_mgm import MGMProcessor
from mgm.data.sources.bad_samples import BadSample, BadSamples, bad_sample, nothing_usable
from mgm.data.sources.formats.record import parse_sample
from mgm.data.sources.mixture_config import DataSource
from mgm.data.sources.sample import Sample, SampleError
from mgm.data.sources.shards import Shard, records_of, shards_of
from mgm.data.text.templates import get_template
from mgm.errors import MGMError

PLACES = 2**32  # samples of one shard, which count in a sample's `index`


def stream_file(checkpoint: Path, process: int) -> Path:
    """Where a checkpoint says how far a process has read."""
    return checkpoint / f"stream-{process}.json"


class StreamedDataset(IterableDataset[tuple[Any, dict[str, Any]]]):
    """An endless stream of samples, or of packed rows, each with the cursor behind it.

    Args:
        path: of the data, for reports.
        sources: what is read; a weight is a share of the samples.
        processor: the model's processor.
        order: what blocks are made into.
        image_folder: of sources that name none and whose images are files.
        bad_samples: lists samples that cannot be used, which are skipped; None: one ends the run.
        reader: number of this process, and of how many.
        orientation: of images.

    Raises:
        MGMError: there is no such data.
    """

    def __init__(
        self,
        path: str,
        sources: Sequence[DataSource],
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
        """What reports call the sources, where there are several."""
        names = tuple(source.name for source in self.sources)
        return names if len(names) > 1 else ()

    def label(self, index: int) -> str:
        """What reports call the sample whose `index` this is."""
        shard, number = divmod(index, PLACES)
        return f"{number} of {self.names[shard]}"

    def listed(self, source: int | None = None) -> list[BadSample]:
        """The bad samples that are known, of one source or of all."""
        if self.bad_samples is None:
            return []
        shards = self.names if source is None else [one.name for one in self.shards[source]]
        return self.bad_samples.entries(shards)

    def check_usable(self) -> None:
        """Nothing: how many samples there are is not known; a reader finds out for itself."""

    def note(self, cursor: Mapping[str, Any]) -> None:
        """Remember that a batch was learned from: a saved run goes on behind it."""
        workers = cursor["workers"]
        self.state["workers"] = workers
        self.state["next"] = (cursor["worker"] + 1) % workers
        self.state["cursors"][str(cursor["worker"])] = cursor

    def go_on_from(self, state: dict[str, Any]) -> None:
        """Go on where another run was, by its `state`."""
        self.state = state

    def __iter__(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        info = get_worker_info()
        workers, asked = (info.num_workers, info.id) if info else (1, 0)
        before = self.state["workers"]
        if before not in (None, workers):
            raise MGMError(
                f"--dataloader_num_workers: {before} processes read the stream before, now it is "
                f"{workers}; a stream goes on with as many"
            )
        # The loader asks its workers in turn, from the first on; the run stopped at another.
        worker = (self.state["next"] + asked) % workers
        cursor = self.state["cursors"].get(str(worker), {})
        number, count = self.reader
        reader = _Reader(self, number * workers + worker, count * workers)
        facts = {"worker": worker, "workers": workers}
        for item, behind in reader.items(cursor):
            yield item, facts | behind


class _Reader:
    """One of several that read a stream at the same time."""

    def __init__(self, stream: StreamedDataset, number: int, count: int) -> None:
        self.stream, self.number, self.count = stream, number, count

    def items(self, cursor: Mapping[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Samples or rows behind a cursor, each with the cursor behind itself."""
        stream = self.stream
        block, done = cursor.get("block", 0), cursor.get("done", 0)
        places = [Place(*place) for place in cursor.get("places", [(0, 0, 0)] * len(stream.shards))]
        rows = [self._source(number, place) for number, place in enumerate(places)]
        weights = [source.weight for source in stream.sources]
        size = stream.order.block
        usable = bool(cursor)  # whether there was a usable sample; of an earlier run there was
        while True:
            start = [(place.round, place.shard, place.sample) for place in places]
            draw = random.Random(f"{stream.order.seed} {self.number} {block}")
            chosen = draw.choices(range(len(rows)), weights, k=size)
            # Places move as rows are taken, and none is taken before the block needs it.
            items = self._ordered([next(rows[source]) for source in chosen], draw)
            for count, item in enumerate(items, start=1):
                if count > done:
                    behind = {"block": block, "done": count, "places": start}
                    made = self._made(item)
                    parts = made if isinstance(made, list) else [made]
                    usable = usable or any(map(is_usable, parts))
                    yield made, behind
            if not usable and all(place.round for place in places):  # all shards were read
                raise nothing_usable(stream.path, stream.listed())
            block, done = block + 1, 0

    def _source(self, number: int, place: Place) -> Iterator[Found]:
        """The samples of a source from `place` on, which moves with them."""
        stream = self.stream
        shards = stream.shards[number]
        first = sum(map(len, stream.shards[:number]))
        alone = len(shards) >= self.count  # or readers share shards, and each takes its samples
        mine = range(self.number if alone else 0, len(shards), self.count if alone else 1)
        step, offset = (1, 0) if alone else (self.count, self.number)
        while True:
            order = list(mine)
            random.Random(f"{stream.order.seed} {number} {place.round}").shuffle(order)
            begun, usable = (place.shard, place.sample), 0
            for shard in order[place.shard :]:
                start = place.sample
                for at, raw in enumerate(records_of(shards[shard], start), start=start):
                    place.sample = at + 1
                    if at % step == offset:
                        found = self._checked(raw, number, shards[shard], first + shard, at)
                        if found is not None:
                            usable += 1
                            yield found
                place.shard, place.sample = place.shard + 1, 0
            if not usable and begun == (0, 0):
                raise self._nothing_usable(number)
            place.round, place.shard = place.round + 1, 0

    def _checked(
        self, raw: Any, source: int, shard: Shard, shard_number: int, number: int
    ) -> Found | None:
        try:
            sample = parse_sample(raw, f"{shard.name}: sample {number}")
        except SampleError as fault:
            self._skip(shard.name, number, fault)
            return None
        return Found(sample, source, shard_number, number)

    def _skip(self, shard: str, number: int, fault: MGMError) -> None:
        if self.stream.bad_samples is None:
            raise fault
        self.stream.bad_samples.add(bad_sample(shard, number, fault))

    def _nothing_usable(self, source: int) -> MGMError:
        """The error of a source that has nothing for this reader."""
        path = self.stream.sources[source].path
        if bad := self.stream.listed(source):
            return nothing_usable(path, bad)
        return MGMError(
            f"{path}: none of its samples can be used by reader {self.number + 1} of {self.count}; "
            "give more, or fewer processes"
        )

    def _ordered(self, block: list[Found], draw: random.Random) -> list[Any]:
        """Samples, or lists of them that make a row, in the order in which they are learned."""
        order, seed = self.stream.order, draw.getrandbits(32)
        generator = torch.Generator().manual_seed(seed)
        if order.pack_to is None and not order.by_length:
            return [block[place] for place in torch.randperm(len(block), generator=generator)]
        images = [len(found.sample.images) for found in block]
        block = [replace(found, encoded=self._encode(found.sample)) for found in block]
        lengths = [len(found.encoded[0]) if found.encoded else 0 for found in block]
        if order.pack_to is None:
            seen = [count > 0 for count in images]
            places = true_length_order(lengths, seen, order.batch_size, generator)
            return [block[place] for place in places]
        rows = pack(lengths, images, order.pack_to, seed)
        shuffled = torch.randperm(len(rows), generator=generator).tolist()
        return [[block[place] for place in rows[row]] for row in shuffled]

    def _encode(self, sample: Sample) -> tuple[list[int], list[int]]:
        stream = self.stream
        return stream.processor.encode_segments(sample.segments(stream.template))

    def _made(self, item: Any) -> Any:
        if isinstance(item, list):
            return [self._tensors(part) for part in item]
        return self._tensors(item)

    def _tensors(self, found: Found) -> dict[str, Tensor]:
        """As an item of `TrainingDataset`."""
        stream = self.stream
        index = {"index": torch.tensor(found.shard * PLACES + found.number)}
        if stream.source_names:
            index["source"] = torch.tensor(found.source)
        where = f"{stream.names[found.shard]}: sample {found.number}"
        try:
            return index | sample_tensors(
                *(found.sample, stream.processor, stream.template),
                *(stream.folders[found.source], where, found.encoded, stream.orientation),
            )
        except MGMError as fault:
            self._skip(stream.names[found.shard], found.number, fault)
            return index


@dataclass(frozen=True)
class StreamCollator:
    """Makes a batch of what a `StreamedDataset` gives, with the last item's `cursor`.

    Attributes:
        collator: of the items.
    """

    collator: Collator | PackedCollator

    def __call__(self, pairs: Sequence[tuple[Any, dict[str, Any]]]) -> dict[str, Any]:
        """Make a batch."""
        items, cursors = zip(*pairs, strict=True)
        return {**self.collator(items), "cursor": cursors[-1]}

    def report(self) -> None:
        """See `Collator.report`."""
        self.collator.report()

"""What the readers of a stream are at, and what they make of what they read."""

from dataclasses import dataclass

from mgm.data.sources.sample import Sample

BLOCK = 512  # samples that are shuffled, grouped or packed with one another


@dataclass(frozen=True)
class Order:
    """What a block is made into.

    Attributes:
        seed: of all that is drawn.
        batch_size: of one process.
        pack_to: positions of a packed row; None: samples stay alone.
        by_length: whether a batch holds samples of about one length, of one modality.
    """

    seed: int
    batch_size: int
    pack_to: int | None = None
    by_length: bool = False

    @property
    def block(self) -> int:
        """Samples of a block: whole batches."""
        return -(-BLOCK // self.batch_size) * self.batch_size


@dataclass
class Place:
    """Where a reader is in one source.

    Attributes:
        round: how often it has seen all its shards.
        shard: how many of this round's shards are behind it.
        sample: how many samples of the shard that it reads.
    """

    round: int = 0
    shard: int = 0
    sample: int = 0


@dataclass(frozen=True)
class Found:
    """A sample of a stream, and which one it is; with ids and labels where its length counted."""

    sample: Sample
    source: int
    shard: int
    number: int
    encoded: tuple[list[int], list[int]] | None = None

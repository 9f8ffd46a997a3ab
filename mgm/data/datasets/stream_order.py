"""Sample order and read positions (cursors) of a streamed dataset, for exact resume."""

from dataclasses import dataclass

from mgm.data.sources.sample import Sample

MIN_BLOCK_SAMPLES = 512  # samples that are shuffled, grouped or packed at a time


@dataclass(frozen=True)
class Order:
    """Settings of the order within a block: shuffling, length grouping, packing.

    Attributes:
        seed: seed of all random choices.
        batch_size: samples per process.
        pack_to: maximum tokens of a packed row; None: no packing.
        by_length: whether batches are grouped by length and modality.
    """

    seed: int
    batch_size: int
    pack_to: int | None = None
    by_length: bool = False

    @property
    def block(self) -> int:
        """Number of samples in a block: a multiple of the batch size."""
        return -(-MIN_BLOCK_SAMPLES // self.batch_size) * self.batch_size


@dataclass
class SourcePosition:
    """The position of a reader in one source.

    Attributes:
        round: number of complete passes over its shards.
        shard: number of shards read in this pass.
        sample: number of samples read in the current shard.
    """

    round: int = 0
    shard: int = 0
    sample: int = 0


@dataclass(frozen=True)
class StreamedSample:
    """A sample with source, shard and index; with token ids if packed or grouped by length."""

    sample: Sample
    source: int
    shard: int
    number: int
    encoded: tuple[list[int], list[int]] | None = None

"""Order and read positions of a streamed dataset, from which it resumes exactly."""

from dataclasses import dataclass

from mgm.data.sources.sample import Sample

MIN_BLOCK_SAMPLES = 512  # samples that are shuffled, grouped or packed with one another


@dataclass(frozen=True)
class Order:
    """How the samples of a block are shuffled, grouped or packed.

    Attributes:
        seed: of all random choices.
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
        return -(-MIN_BLOCK_SAMPLES // self.batch_size) * self.batch_size


@dataclass
class SourcePosition:
    """The position of a reader in one source.

    Attributes:
        round: number of complete passes over its shards.
        shard: shards of this pass that were read.
        sample: samples of the current shard that were read.
    """

    round: int = 0
    shard: int = 0
    sample: int = 0


@dataclass(frozen=True)
class StreamedSample:
    """A sample with its source, shard and index there; with ids and labels if its length counts."""

    sample: Sample
    source: int
    shard: int
    number: int
    encoded: tuple[list[int], list[int]] | None = None

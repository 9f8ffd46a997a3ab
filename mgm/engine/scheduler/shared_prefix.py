"""A prefill row for prompts with a common prefix: the prefix once, then each prompt's suffix.

Each suffix attends to the prefix and to itself, as in cascade attention (Hydragen, FlashInfer).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

from mgm.engine.core.sequence import Sequence
from mgm.engine.kv_cache.prefix_cache import common_prefix_length


@dataclass(frozen=True)
class PrefixGroup:
    """Prompts that are prefilled in one row; often questions about the same image.

    Attributes:
        sequences: sequences of these prompts, at least one.
        cached_length: positions of the prefix that the prefix cache holds.
        prefix_length: positions of the common prefix, cached ones included.
    """

    sequences: tuple[Sequence, ...]
    cached_length: int
    prefix_length: int

    @classmethod
    def of_one(cls, sequence: Sequence, cached_length: int) -> "PrefixGroup":
        """A group of one prompt, whose suffix is its last token."""
        return cls((sequence,), cached_length, len(sequence.token_keys) - 1)

    def try_add(self, sequence: Sequence, cached_length: int) -> "PrefixGroup | None":
        """Extend the group by a prompt; None: the common prefix would save less than half."""
        keys = sequence.token_keys
        common = common_prefix_length(keys, self.sequences[0].token_keys)
        prefix_length = min(common, self.prefix_length, len(keys) - 1)
        if cached_length != self.cached_length or prefix_length <= cached_length:
            return None
        group = PrefixGroup((*self.sequences, sequence), cached_length, prefix_length)
        alone = len(keys) - cached_length
        return group if self.num_tokens + alone - group.num_tokens > alone // 2 else None

    @property
    def num_tokens(self) -> int:
        """Tokens to prefill."""
        return self.prefix_length - self.cached_length + sum(self._suffix_lengths)

    @property
    def width(self) -> int:
        """Columns of the KV cache that the row takes during prefill."""
        return self.cached_length + self.num_tokens

    @property
    def suffixes(self) -> list[range]:
        """Columns of each prompt's suffix."""
        ends = list(accumulate(self._suffix_lengths, initial=self.prefix_length))
        return [range(*pair) for pair in pairwise(ends)]

    def tokens(self) -> Iterator[tuple[int, int]]:
        """Branch index (0 in the prefix, then from 1 on) and position of each token to prefill."""
        yield from ((0, position) for position in range(self.cached_length, self.prefix_length))
        for branch, length in enumerate(self._suffix_lengths, start=1):
            yield from ((branch, self.prefix_length + offset) for offset in range(length))

    @property
    def _suffix_lengths(self) -> list[int]:
        return [len(sequence.token_keys) - self.prefix_length for sequence in self.sequences]

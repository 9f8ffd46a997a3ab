"""Prompts that begin alike, in one row: their beginning once, and behind it the rest of each."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

from mgm.engine.core.sequence import Generation
from mgm.engine.kv_cache.prefix_cache import common


@dataclass(frozen=True)
class PromptTree:
    """Prompts that are read together; often questions about the same image.

    Attributes:
        generations: the answers; one at least.
        known: positions that all begin with and that need not be read.
        shared: positions that all begin with, those that are known among them.
    """

    generations: tuple[Generation, ...]
    known: int
    shared: int

    @classmethod
    def of(cls, generation: Generation, known: int) -> "PromptTree":
        """One prompt; its last token is a branch of its own, as it is of every other."""
        return cls((generation,), known, len(generation.names) - 1)

    def joined_by(self, generation: Generation, known: int) -> "PromptTree | None":
        """With one more prompt; None: that would not save most of what is to be read of it."""
        names = generation.names
        shared = min(common(names, self.generations[0].names), self.shared, len(names) - 1)
        if known != self.known or shared <= known:
            return None
        joined = PromptTree((*self.generations, generation), known, shared)
        alone = len(names) - known
        return joined if self.length + alone - joined.length > alone // 2 else None

    @property
    def length(self) -> int:
        """Positions to read."""
        return self.shared - self.known + sum(self._lengths)

    @property
    def width(self) -> int:
        """Columns that this takes while it is read."""
        return self.known + self.length

    @property
    def branches(self) -> list[range]:
        """Columns of what follows in each prompt on what is shared."""
        ends = list(accumulate(self._lengths, initial=self.shared))
        return [range(*pair) for pair in pairwise(ends)]

    def tokens(self) -> Iterator[tuple[int, int]]:
        """Of each that is read: its branch, from 1 on, 0 if it is shared; and its position."""
        yield from ((0, position) for position in range(self.known, self.shared))
        for branch, length in enumerate(self._lengths, start=1):
            yield from ((branch, self.shared + step) for step in range(length))

    @property
    def _lengths(self) -> list[int]:
        return [len(generation.names) - self.shared for generation in self.generations]

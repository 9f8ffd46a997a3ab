"""Length-grouped samplers: batches of one modality and similar length, resumable by epoch."""

import os
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from mgm.errors import MGMError

STEPS = 50  # optimizer steps per window that is sorted by length


class EpochSampler(Sampler[int]):
    """Base class: an order that depends on seed and epoch only, so that a resumed run continues it.

    Args:
        lengths: length of each sample.
        seed: seed for the shuffles.
    """

    def __init__(self, lengths: Sequence[int], seed: int) -> None:
        self.lengths = lengths
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order(torch.Generator().manual_seed(self.seed + self.epoch)))

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration; called by the Trainer."""
        self.epoch = epoch

    def order(self, generator: torch.Generator) -> list[int]:
        """The sample indices of one epoch, shuffled with `generator`."""
        raise NotImplementedError


class ModalitySampler(EpochSampler):
    """`--group_by_modality_length`: batches of similar length, all with images or all without.

    Args:
        lengths: words of each sample, negative without image.
        batch_size: samples per device and forward pass.
        groups: devices times accumulation steps; each gets about as many words.
        seed: seed for the shuffles.
        source: data path, for the error.

    Raises:
        MGMError: a sample has neither words nor images.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        groups: int,
        seed: int,
        source: str | os.PathLike[str] = "the data",
    ) -> None:
        if 0 in lengths:
            index = list(lengths).index(0)
            raise MGMError(f"{source}: sample {index} has no words; remove it")
        super().__init__(lengths, seed)
        self.batch_size = batch_size
        self.groups = groups

    def order(self, generator: torch.Generator) -> list[int]:
        """The indices of one epoch, in their order."""
        return modality_order(self.lengths, self.batch_size, self.groups, generator)


def modality_order(
    lengths: Sequence[int], batch_size: int, groups: int, generator: torch.Generator
) -> list[int]:
    """Sample indices in mega-batches of one modality; the remainders of both modalities come last.

    Args:
        lengths: length of each sample, negative without image.
        batch_size: samples per group.
        groups: groups per mega-batch.
        generator: generator for the shuffles.
    """
    with_image = [index for index, length in enumerate(lengths) if length > 0]
    without = [index for index, length in enumerate(lengths) if length < 0]
    if not with_image or not without:
        # Compat: lengths keep their sign, so that text-only samples are sorted shortest first.
        return length_order(lengths, batch_size, groups, generator)
    full: list[list[int]] = []
    rest: list[int] = []
    size = batch_size * groups
    for indices in (with_image, without):
        order = length_order(
            [abs(lengths[index]) for index in indices], batch_size, groups, generator
        )
        batches = _cut([indices[i] for i in order], size)
        # Compat: the last mega-batch counts as the remainder even if it is full.
        full += batches[:-1]
        rest += batches[-1]
    shuffled = [full[index] for index in torch.randperm(len(full), generator=generator).tolist()]
    return [index for batch in [*shuffled, sorted(rest)] for index in batch]


def length_order(
    lengths: Sequence[int], batch_size: int, groups: int, generator: torch.Generator
) -> list[int]:
    """Indices in random mega-batches, each of groups of equal size and about equal total length."""
    shuffled = torch.randperm(len(lengths), generator=generator).tolist()
    order: list[int] = []
    for batch in _cut(shuffled, batch_size * groups):
        longest_first = sorted(batch, key=lambda index: lengths[index], reverse=True)
        for chunk in even_chunks(longest_first, lengths, groups):
            order += chunk
    return order


def even_chunks(indices: Sequence[int], lengths: Sequence[int], count: int) -> list[list[int]]:
    """Split indices into `count` chunks of equal size; each index goes to the shortest chunk."""
    if len(indices) % count:
        return [list(indices[chunk::count]) for chunk in range(count)]
    size = len(indices) // count
    chunks: list[list[int]] = [[] for _ in range(count)]
    loads: list[float] = [0] * count
    for index in indices:
        chunk = loads.index(min(loads))
        chunks[chunk].append(index)
        loads[chunk] += lengths[index]
        if len(chunks[chunk]) == size:
            loads[chunk] = float("inf")
    return chunks


def _cut(indices: Sequence[int], size: int) -> list[list[int]]:
    return [list(indices[start : start + size]) for start in range(0, len(indices), size)]


class LengthSampler(EpochSampler):
    """`--group_by_length`: batches of nearly equal token counts, all with images or all without.

    Args:
        lengths: tokens of each sample, image tokens included.
        with_image: whether each sample has images.
        step_size: samples per optimizer step over all devices.
        seed: seed for the shuffles.
    """

    def __init__(
        self, lengths: Sequence[int], with_image: Sequence[bool], step_size: int, seed: int
    ) -> None:
        super().__init__(lengths, seed)
        self.with_image = with_image
        self.step_size = step_size

    def order(self, generator: torch.Generator) -> list[int]:
        """The indices of one epoch, in their order."""
        return true_length_order(self.lengths, self.with_image, self.step_size, generator)


def true_length_order(
    lengths: Sequence[int],
    with_image: Sequence[bool],
    step_size: int,
    generator: torch.Generator,
) -> list[int]:
    """Sample indices, sorted by length in random windows of `STEPS` steps, with the steps shuffled.

    The step with the most tokens comes first, so that a run that needs too much memory fails at
    once. The remainder, which fills no step, comes last.

    Args:
        lengths: tokens of each sample.
        with_image: whether each sample has images.
        step_size: samples per optimizer step.
        generator: generator for the shuffles.
    """
    steps: list[list[int]] = []
    rest: list[int] = []
    for seen in (True, False):
        indices = [index for index, has in enumerate(with_image) if bool(has) is seen]
        order = [indices[i] for i in torch.randperm(len(indices), generator=generator)]
        for window in _cut(order, STEPS * step_size):
            for step in _cut(sorted(window, key=lambda index: lengths[index]), step_size):
                if len(step) == step_size:
                    steps.append(step)
                else:
                    rest += step
    shuffled = [steps[index] for index in torch.randperm(len(steps), generator=generator)]
    if shuffled:
        largest = max(range(len(shuffled)), key=lambda n: max(lengths[i] for i in shuffled[n]))
        shuffled.insert(0, shuffled.pop(largest))
    rest.sort(key=lambda index: lengths[index])
    return [index for step in [*shuffled, rest] for index in step]

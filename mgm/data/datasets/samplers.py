"""Samplers: batches of one modality and similar lengths, as `group_by_modality_length`."""

import os
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from mgm.errors import MGMError

STEPS = 50  # of one window that is sorted by length


class EpochSampler(Sampler[int]):
    """An order of samples that depends on seed and epoch alone: a resumed run sees what is left.

    Args:
        lengths: of each sample.
        seed: of the order.
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
        """Choose the epoch whose order comes next; the Trainer calls it."""
        self.epoch = epoch

    def order(self, generator: torch.Generator) -> list[int]:
        """The indices of one epoch, in their order; `generator` is of its shuffles."""
        raise NotImplementedError


class ModalitySampler(EpochSampler):
    """Orders samples so that a batch holds either images or none, and samples of similar length.

    Args:
        lengths: words of each sample, negative without image.
        batch_size: samples of one device in one step.
        groups: devices times accumulation steps; each gets about as many words.
        seed: of the order.
        source: where the samples come from, for the error.

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
    """Indices of samples in mega-batches of one modality; those left over come last.

    Args:
        lengths: of each sample, negative without image.
        batch_size: samples of one group.
        groups: groups of a mega-batch.
        generator: of the shuffles.
    """
    with_image = [index for index, length in enumerate(lengths) if length > 0]
    without = [index for index, length in enumerate(lengths) if length < 0]
    if not with_image or not without:
        # Compat: lengths keep their sign, so that texts alone come shortest first.
        return length_order(lengths, batch_size, groups, generator)
    full: list[list[int]] = []
    rest: list[int] = []
    size = batch_size * groups
    for indices in (with_image, without):
        order = length_order(
            [abs(lengths[index]) for index in indices], batch_size, groups, generator
        )
        batches = _cut([indices[i] for i in order], size)
        # Compat: the last mega-batch counts as left over even when it is full.
        full += batches[:-1]
        rest += batches[-1]
    shuffled = [full[index] for index in torch.randperm(len(full), generator=generator).tolist()]
    return [index for batch in [*shuffled, sorted(rest)] for index in batch]


def length_order(
    lengths: Sequence[int], batch_size: int, groups: int, generator: torch.Generator
) -> list[int]:
    """Indices in random mega-batches; within one, groups of equal size and about equal length."""
    shuffled = torch.randperm(len(lengths), generator=generator).tolist()
    order: list[int] = []
    for batch in _cut(shuffled, batch_size * groups):
        longest_first = sorted(batch, key=lambda index: lengths[index], reverse=True)
        for chunk in even_chunks(longest_first, lengths, groups):
            order += chunk
    return order


def even_chunks(indices: Sequence[int], lengths: Sequence[int], count: int) -> list[list[int]]:
    """Deal indices out to `count` chunks of one size, each to the shortest so far."""
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
    """Orders samples so that a batch holds samples of nearly one true length, of one modality.

    Args:
        lengths: positions of each sample, image positions included.
        with_image: whether each sample has images.
        step_size: samples of all devices in one step.
        seed: of the order.
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
    """Indices step by step: sorted in random windows of `STEPS` steps, whose steps are shuffled.

    The step with most positions comes first: where memory is too small, it shows at once. What
    fills no step comes last.

    Args:
        lengths: positions of each sample.
        with_image: whether each sample has images.
        step_size: samples of one step.
        generator: of the shuffles.
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

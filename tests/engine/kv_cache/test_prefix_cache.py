"""What is found of a beginning is what was put there, whatever was cut, shared and dropped."""

import random

import numpy as np
import pytest
import torch

from mgm.engine.kv_cache.kv_cache import Layers
from mgm.engine.kv_cache.prefix_cache import PrefixCache

POSITION = 2 * 2 * 3 * 4  # bytes: keys and values, two layers, width 3, float32


def layers_of(names: np.ndarray, dtype: torch.dtype = torch.float32) -> Layers:
    """Keys and values that tell by their own value which position of which beginning they are."""
    sums = torch.tensor([hash(tuple(names[: n + 1].tolist())) % 9973 for n in range(len(names))])
    one = sums.to(dtype).view(1, 1, -1, 1).expand(1, 1, -1, 3)
    return [((one + layer).clone(), (one - layer).clone()) for layer in range(2)]


def put(cache: PrefixCache, names: np.ndarray, dtype: torch.dtype = torch.float32) -> None:
    def copy_from(start: int) -> Layers:
        return [(k[:, :, start:].clone(), v[:, :, start:].clone()) for k, v in whole]

    whole = layers_of(names, dtype)
    cache.put(names, dtype, copy_from)


def found(cache: PrefixCache, names: np.ndarray) -> int:
    """How many positions are found; they are the right ones."""
    parts = cache.find(names, torch.float32)
    length = sum(layers[0][0].shape[2] for layers in parts)
    if parts:
        for layer, (keys, values) in enumerate(layers_of(names[:length])):
            assert torch.equal(torch.cat([part[layer][0] for part in parts], dim=2), keys)
            assert torch.equal(torch.cat([part[layer][1] for part in parts], dim=2), values)
    return length


def longest(kept: list[np.ndarray], names: np.ndarray) -> int:
    """The same by looking at every row that was kept."""
    best = 0
    for one in kept:
        shared = 0
        while shared < min(len(one), len(names) - 1) and one[shared] == names[shared]:
            shared += 1
        best = max(best, shared)
    return best


@pytest.mark.parametrize("seed", range(5))
def test_the_longest_beginning_is_found(seed):
    draw = random.Random(seed)
    cache, kept, positions = PrefixCache(2**30), [], set()
    for _ in range(150):
        names = np.array([draw.choice((7, 8, -3)) for _ in range(draw.randint(1, 12))])
        assert cache.known(names, torch.float32) == longest(kept, names)
        assert found(cache, names) == longest(kept, names)
        if draw.random() < 0.5:
            put(cache, names)
            kept.append(names)
            positions |= {tuple(names[: n + 1].tolist()) for n in range(len(names))}
        assert cache.size == POSITION * len(positions)  # nothing is kept twice


@pytest.mark.parametrize("seed", range(5))
def test_it_stays_within_its_capacity(seed):
    draw = random.Random(seed)
    cache, most = PrefixCache(40 * POSITION), 0
    for _ in range(300):
        names = np.array([draw.choice((1, 2)) for _ in range(draw.randint(1, 50))])
        put(cache, names)
        assert cache.size <= cache.capacity
        # What was put last is whole, unless it alone is too large.
        whole = cache.known(np.append(names, 9), torch.float32) == len(names)
        assert whole or len(names) > 40
        found(cache, names)
        most = max(most, cache.size)
    assert most > 0.9 * cache.capacity


def test_what_was_unused_for_longest_leaves():
    rows = [np.array([5, 5, number, 4, 4, 4]) for number in range(3)]
    cache = PrefixCache(10 * POSITION)  # two rows with their common beginning
    put(cache, rows[0])
    put(cache, rows[1])
    found(cache, np.append(rows[0], 1))
    put(cache, rows[2])
    assert [cache.known(np.append(row, 1), torch.float32) for row in rows] == [6, 2, 6]


def test_another_precision_is_something_else():
    cache, names = PrefixCache(2**20), np.array([1, 2, 3])
    put(cache, names, torch.bfloat16)
    assert cache.find(names, torch.float32) == []
    assert cache.known(names, torch.bfloat16) == 2
    assert (cache.hits, cache.misses) == (0, 3)

"""Matched prefixes equal inserted ones, after splits, sharing and evictions."""

import random

import numpy as np
import pytest
import torch

from mgm.engine.kv_cache.layer_kv import LayerKV
from mgm.engine.kv_cache.prefix_cache import PrefixCache

POSITION = 2 * 2 * 3 * 4  # bytes: keys and values, two layers, width 3, float32


def layers_of(keys: np.ndarray, dtype: torch.dtype = torch.float32) -> LayerKV:
    """Keys and values that are unique for every prefix."""
    sums = torch.tensor([hash(tuple(keys[: n + 1].tolist())) % 9973 for n in range(len(keys))])
    one = sums.to(dtype).view(1, 1, -1, 1).expand(1, 1, -1, 3)
    return [((one + layer).clone(), (one - layer).clone()) for layer in range(2)]


def insert(cache: PrefixCache, keys: np.ndarray, dtype: torch.dtype = torch.float32) -> None:
    def copy_from(start: int) -> LayerKV:
        return [(k[:, :, start:].clone(), v[:, :, start:].clone()) for k, v in whole]

    whole = layers_of(keys, dtype)
    cache.insert(keys, dtype, copy_from)


def matched(cache: PrefixCache, keys: np.ndarray) -> int:
    """Number of matching positions, after a check of their content."""
    parts = cache.match_prefix(keys, torch.float32)
    length = sum(layers[0][0].shape[2] for layers in parts)
    if parts:
        for layer, (ours, values) in enumerate(layers_of(keys[:length])):
            assert torch.equal(torch.cat([part[layer][0] for part in parts], dim=2), ours)
            assert torch.equal(torch.cat([part[layer][1] for part in parts], dim=2), values)
    return length


def longest(kept: list[np.ndarray], keys: np.ndarray) -> int:
    """The expected number, by comparison with all inserted rows."""
    best = 0
    for one in kept:
        shared = 0
        while shared < min(len(one), len(keys) - 1) and one[shared] == keys[shared]:
            shared += 1
        best = max(best, shared)
    return best


@pytest.mark.parametrize("seed", range(5))
def test_longest_prefix_matches(seed):
    draw = random.Random(seed)
    cache, kept, positions = PrefixCache(2**30), [], set()
    for _ in range(150):
        keys = np.array([draw.choice((7, 8, -3)) for _ in range(draw.randint(1, 12))])
        assert cache.match_length(keys, torch.float32) == longest(kept, keys)
        assert matched(cache, keys) == longest(kept, keys)
        if draw.random() < 0.5:
            insert(cache, keys)
            kept.append(keys)
            positions |= {tuple(keys[: n + 1].tolist()) for n in range(len(keys))}
        assert cache.nbytes == POSITION * len(positions)  # shared prefixes are stored once


@pytest.mark.parametrize("seed", range(5))
def test_capacity(seed):
    draw = random.Random(seed)
    cache, largest = PrefixCache(40 * POSITION), 0
    for _ in range(300):
        keys = np.array([draw.choice((1, 2)) for _ in range(draw.randint(1, 50))])
        insert(cache, keys)
        assert cache.nbytes <= cache.capacity
        # The last inserted prefix is complete, unless it exceeds the capacity by itself.
        whole = cache.match_length(np.append(keys, 9), torch.float32) == len(keys)
        assert whole or len(keys) > 40
        matched(cache, keys)
        largest = max(largest, cache.nbytes)
    assert largest > 0.9 * cache.capacity


def test_least_recently_used_is_evicted():
    rows = [np.array([5, 5, number, 4, 4, 4]) for number in range(3)]
    cache = PrefixCache(10 * POSITION)  # two rows with a common prefix
    insert(cache, rows[0])
    insert(cache, rows[1])
    matched(cache, np.append(rows[0], 1))
    insert(cache, rows[2])
    assert [cache.match_length(np.append(row, 1), torch.float32) for row in rows] == [6, 2, 6]


def test_dtypes_do_not_match_each_other():
    cache, keys = PrefixCache(2**20), np.array([1, 2, 3])
    insert(cache, keys, torch.bfloat16)
    assert cache.match_prefix(keys, torch.float32) == []
    assert cache.match_length(keys, torch.bfloat16) == 2
    assert (cache.hits, cache.misses) == (0, 3)

"""Keys and values of some positions of one sequence, by layer."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import DynamicCache

LayerKV = list[tuple[Tensor, Tensor]]  # of each layer: (1, heads, positions, head width)


def to_dynamic_cache(parts: Sequence[LayerKV]) -> DynamicCache:
    """A cached prefix, part by part, as transformers' cache of a single sequence."""
    cache = DynamicCache()
    for layers in parts:
        for index, (keys, values) in enumerate(layers):
            cache.update(keys, values, index)
    return cache


def slice_kv(layers: LayerKV, start: int, end: int | None) -> LayerKV:
    """Views of the keys and values of some positions."""
    return [(keys[:, :, start:end], values[:, :, start:end]) for keys, values in layers]


def copy_kv(layers: LayerKV) -> LayerKV:
    """Copies of keys and values."""
    return [(keys.clone(), values.clone()) for keys, values in layers]


def to_layers(cache: DynamicCache) -> LayerKV:
    """The keys and values of transformers' cache."""
    layers: list[Any] = list(cache.layers)
    return [(layer.keys, layer.values) for layer in layers]

"""Radix tree of cached KV prefixes with LRU eviction."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from mgm.engine.kv_cache.layer_kv import LayerKV, copy_kv, slice_kv


@dataclass(eq=False)
class _Node:
    """An edge of the radix tree: consecutive positions that all sequences below it share."""

    token_keys: np.ndarray
    layers: LayerKV
    parent: "_Node | None"
    children: dict[int, "_Node"] = field(default_factory=dict)  # by first token key

    @property
    def nbytes(self) -> int:
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)


class PrefixCache:
    """Prefix cache: keys and values of prompts and outputs, each common prefix stored once.

    Args:
        capacity: maximum size in bytes; the least recently used leaves are evicted beyond it.

    Attributes:
        nbytes: current size.
        hits: positions of prompts that were in the cache.
        misses: positions of prompts that were not.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.nbytes = 0
        self.hits = 0
        self.misses = 0
        self._roots: dict[torch.dtype, _Node] = {}
        # Least recently used first; children come before their parents, so the first is a leaf.
        self._nodes: OrderedDict[_Node, None] = OrderedDict()

    def match_prefix(self, token_keys: np.ndarray, dtype: torch.dtype) -> list[LayerKV]:
        """Find the longest cached prefix of a prompt; the last token is left out: logits need it.

        Args:
            token_keys: keys of the prompt's positions; equal token keys after equal prefixes have
                equal keys and values.
            dtype: dtype of the model's keys and values.

        Returns:
            Keys and values, part by part. These are views: copy them before the cache changes.
        """
        path, length = self._match(token_keys[:-1], dtype)
        self.hits += length
        self.misses += len(token_keys) - length
        self._mark_used(path)
        parts = [node.layers for node in path]
        if path:
            surplus = sum(len(node.token_keys) for node in path) - length
            parts[-1] = slice_kv(parts[-1], 0, len(path[-1].token_keys) - surplus)
        return parts

    def match_length(self, token_keys: np.ndarray, dtype: torch.dtype) -> int:
        """Length of the prefix that `match_prefix` returns; metrics and LRU order do not change."""
        return self._match(token_keys[:-1], dtype)[1]

    def insert(
        self, token_keys: np.ndarray, dtype: torch.dtype, copy_from: Callable[[int], LayerKV]
    ) -> None:
        """Cache the keys and values of a sequence, if they fit; evict others above the capacity.

        Args:
            token_keys: token keys of its positions.
            dtype: dtype of keys and values.
            copy_from: returns a copy of the keys and values from a position on.
        """
        path, length = self._match(token_keys, dtype)
        if length < len(token_keys):
            added = _Node(token_keys[length:].copy(), copy_from(length), None)
            if added.nbytes * len(token_keys) > self.capacity * len(added.token_keys):
                return
            if path:
                before = sum(len(one.token_keys) for one in path[:-1])
                path[-1] = self._split(path[-1], length - before)
            self._attach(path[-1] if path else self._root(dtype), added)
            path.append(added)
        self._mark_used(path)
        while self.nbytes > self.capacity:
            self._detach(next(iter(self._nodes)))

    def _root(self, dtype: torch.dtype) -> _Node:
        return self._roots.setdefault(dtype, _Node(np.empty(0, np.int64), [], None))

    def _match(self, token_keys: np.ndarray, dtype: torch.dtype) -> tuple[list[_Node], int]:
        """Nodes from the root down that match, the last one maybe in part, and matched length."""
        node, path, length = self._root(dtype), [], 0
        while length < len(token_keys):
            child = node.children.get(int(token_keys[length]))
            if child is None:
                break
            common = common_prefix_length(child.token_keys, token_keys[length:])
            path.append(child)
            length += common
            if common < len(child.token_keys):
                break
            node = child
        return path, length

    def _mark_used(self, path: list[_Node]) -> None:
        for node in reversed(path):
            self._nodes.move_to_end(node)

    def _split(self, node: _Node, length: int) -> _Node:
        """Split a node after `length` positions; returns the upper part."""
        if length == len(node.token_keys):
            return node
        # Copies: a view would keep the memory of an evicted part.
        upper, lower = (
            _Node(
                node.token_keys[part], copy_kv(slice_kv(node.layers, part.start, part.stop)), None
            )
            for part in (slice(0, length), slice(length, len(node.token_keys)))
        )
        parent = node.parent
        assert parent is not None
        self._detach(node)
        self._attach(parent, upper)
        lower.children = node.children
        for child in lower.children.values():
            child.parent = lower
        self._attach(upper, lower)
        # In LRU order the new nodes come after their children and before their ancestors.
        self._nodes.move_to_end(upper)
        ancestor: _Node | None = parent
        while ancestor is not None and ancestor.parent is not None:
            self._nodes.move_to_end(ancestor)
            ancestor = ancestor.parent
        return upper

    def _attach(self, parent: _Node, node: _Node) -> None:
        node.parent = parent
        parent.children[int(node.token_keys[0])] = node
        self._nodes[node] = None
        self.nbytes += node.nbytes

    def _detach(self, node: _Node) -> None:
        assert node.parent is not None
        del node.parent.children[int(node.token_keys[0])]
        del self._nodes[node]
        self.nbytes -= node.nbytes


def common_prefix_length(first: np.ndarray, second: np.ndarray) -> int:
    """Length of the longest common prefix of two arrays of token keys."""
    length = min(len(first), len(second))
    differences = np.flatnonzero(first[:length] != second[:length])
    return int(differences[0]) if len(differences) else length

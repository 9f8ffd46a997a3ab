"""Keys and values of prompts and answers, so that what begins in the same way is not read again."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from mgm.engine.kv_cache.kv_cache import Layers, between


@dataclass(eq=False)
class _Node:
    """What follows on the same beginning; its children go on from there in different ways."""

    names: np.ndarray
    layers: Layers
    parent: "_Node | None"
    children: dict[int, "_Node"] = field(default_factory=dict)  # by their first names

    @property
    def size(self) -> int:
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)


class PrefixCache:
    """A tree of keys and values: a common beginning is kept once. Those unused for longest leave.

    Args:
        capacity: bytes that they may take together.

    Attributes:
        size: bytes that they take.
        hits: positions that were found here.
        misses: positions that were looked for, and had to be computed.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.size = 0
        self.hits = 0
        self.misses = 0
        self._roots: dict[torch.dtype, _Node] = {}
        # The last used is the last, and a parent comes after its children: the first has none.
        self._nodes: OrderedDict[_Node, None] = OrderedDict()

    def find(self, names: np.ndarray, dtype: torch.dtype) -> list[Layers]:
        """The longest known beginning of a prompt, but not all of it: the last token is read.

        Args:
            names: of the positions: two are the same if all before them are, too.
            dtype: of the keys that the model makes now.

        Returns:
            Keys and values, part by part. They are lent: copy them before the cache changes.
        """
        path, length = self._longest(names[:-1], dtype)
        self.hits += length
        self.misses += len(names) - length
        self._use(path)
        parts = [node.layers for node in path]
        if path:
            surplus = sum(len(node.names) for node in path) - length
            parts[-1] = between(parts[-1], 0, len(path[-1].names) - surplus)
        return parts

    def known(self, names: np.ndarray, dtype: torch.dtype) -> int:
        """How many positions `find` would find."""
        return self._longest(names[:-1], dtype)[1]

    def put(
        self, names: np.ndarray, dtype: torch.dtype, copy_from: Callable[[int], Layers]
    ) -> None:
        """Keep the keys and values of these positions, unless they alone are too large.

        Args:
            names: of the positions.
            dtype: of keys and values.
            copy_from: a copy of the keys and values from a position on.
        """
        path, length = self._longest(names, dtype)
        if length < len(names):
            added = _Node(names[length:].copy(), copy_from(length), None)
            if added.size * len(names) > self.capacity * len(added.names):
                return
            if path:
                path[-1] = self._cut(path[-1], length - sum(len(one.names) for one in path[:-1]))
            self._join(path[-1] if path else self._root(dtype), added)
            path.append(added)
        self._use(path)
        while self.size > self.capacity:
            self._drop_oldest()

    def _root(self, dtype: torch.dtype) -> _Node:
        return self._roots.setdefault(dtype, _Node(np.empty(0, np.int64), [], None))

    def _longest(self, names: np.ndarray, dtype: torch.dtype) -> tuple[list[_Node], int]:
        """The nodes that `names` begins with, of the last one maybe a part, and their positions."""
        node, path, length = self._root(dtype), [], 0
        while length < len(names):
            child = node.children.get(int(names[length]))
            if child is None:
                break
            shared = common(child.names, names[length:])
            path.append(child)
            length += shared
            if shared < len(child.names):
                break
            node = child
        return path, length

    def _use(self, path: list[_Node]) -> None:
        for node in reversed(path):
            self._nodes.move_to_end(node)

    def _cut(self, node: _Node, length: int) -> _Node:
        """The first positions of a node as one of its own; the others become its child."""
        if length == len(node.names):
            return node
        # Copies, or a part that has left would still take memory.
        first, rest = (
            _Node(node.names[part], copied(between(node.layers, part.start, part.stop)), None)
            for part in (slice(0, length), slice(length, len(node.names)))
        )
        parent = node.parent
        assert parent is not None
        self._leave(node)
        self._join(parent, first)
        rest.children = node.children
        for child in rest.children.values():
            child.parent = rest
        self._join(first, rest)
        # Its children have to come before it, and it before what is above it.
        self._nodes.move_to_end(first)
        above: _Node | None = parent
        while above is not None and above.parent is not None:
            self._nodes.move_to_end(above)
            above = above.parent
        return first

    def _join(self, parent: _Node, node: _Node) -> None:
        node.parent = parent
        parent.children[int(node.names[0])] = node
        self._nodes[node] = None
        self.size += node.size

    def _leave(self, node: _Node) -> None:
        assert node.parent is not None
        del node.parent.children[int(node.names[0])]
        del self._nodes[node]
        self.size -= node.size

    def _drop_oldest(self) -> None:
        self._leave(next(iter(self._nodes)))


def copied(layers: Layers) -> Layers:
    """Copies, which share memory with nothing."""
    return [(keys.clone(), values.clone()) for keys, values in layers]


def common(first: np.ndarray, second: np.ndarray) -> int:
    """How many names two rows begin with in common."""
    length = min(len(first), len(second))
    differ = np.flatnonzero(first[:length] != second[:length])
    return int(differ[0]) if len(differ) else length

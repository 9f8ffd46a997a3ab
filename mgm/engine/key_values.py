"""Keys and values of the answers that are being written, and of prompts that may come again."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin

BLOCK = 64  # columns that rows grow by, at least
Layers = list[tuple[Tensor, Tensor]]  # keys and values, (1, heads, positions, width) each


class Rows(Cache):
    """Keys and values of several answers, each in a row of its own that begins at column 0.

    Rows are written to at different columns; what lies behind a row's last one is rubbish, which a
    mask has to hide. transformers' models take it as their cache where each row reads one token.
    """

    def __init__(self, layers: int) -> None:
        self._rows = [_RowLayer() for _ in range(layers)]
        super().__init__(layers=list(self._rows))
        self.columns: list[int] = []  # used of each row
        self.step_width = 0  # columns that the step looks at

    def add(self, layers: Layers) -> None:
        """Begin a row with the keys and values of its prompt."""
        row, length = len(self.columns), layers[0][0].shape[2]
        for layer, (keys, values) in zip(self._rows, layers, strict=True):
            layer.put(row, keys, values)
        self.columns.append(length)

    def remove(self, row: int) -> None:
        """End a row; the last one takes its place."""
        last = len(self.columns) - 1
        if row != last:
            for layer in self._rows:
                layer.move(last, row, self.columns[last])
        self.columns[row] = self.columns[last]
        self.columns.pop()

    def copy(self, row: int) -> Layers:
        """What a row holds."""
        return [layer.copy(row, self.columns[row]) for layer in self._rows]

    def begin_step(self, device: torch.device) -> Tensor:
        """Make room for one more token in every row.

        Returns:
            (rows) columns that the tokens go to, which are their positions too.
        """
        places = torch.tensor(self.columns, device=device)
        self.step_width = -(-(max(self.columns) + 1) // BLOCK) * BLOCK
        for layer in self._rows:
            layer.reserve(len(self.columns), self.step_width)
            layer.places, layer.width = places, self.step_width
        self.columns = [column + 1 for column in self.columns]
        return places


class _RowLayer(CacheLayerMixin):
    """One layer of `Rows`."""

    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
        self.places: Tensor | None = None
        self.width = 0
        self.keys: Any = None
        self.values: Any = None

    def put(self, row: int, keys: Tensor, values: Tensor) -> None:
        length = keys.shape[2]
        if not self.is_initialized or self.keys.dtype != keys.dtype:
            self.lazy_initialization(keys, values)
        self.reserve(row + 1, length)
        self.keys[row, :, :length] = keys[0]
        self.values[row, :, :length] = values[0]

    def reserve(self, rows: int, columns: int) -> None:
        """Grow, by half as much again at least, so that growing is rare."""
        have_rows, have_columns = self.keys.shape[0], self.keys.shape[2]
        if rows <= have_rows and columns <= have_columns:
            return
        if rows > have_rows:
            rows = max(rows, have_rows * 3 // 2)
        if columns > have_columns:
            columns = -(-max(columns, have_columns * 3 // 2) // BLOCK) * BLOCK
        for name in ("keys", "values"):
            old = getattr(self, name)
            grown = old.new_zeros(
                max(rows, have_rows), old.shape[1], max(columns, have_columns), old.shape[3]
            )
            grown[:have_rows, :, :have_columns] = old
            setattr(self, name, grown)

    def move(self, source: int, target: int, columns: int) -> None:
        for part in (self.keys, self.values):
            part[target, :, :columns] = part[source, :, :columns]

    def copy(self, row: int, columns: int) -> tuple[Tensor, Tensor]:
        keys, values = (part[row : row + 1, :, :columns] for part in (self.keys, self.values))
        return keys.clone(), values.clone()

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Begin with nothing of the shape of these."""
        for name, like in (("keys", key_states), ("values", value_states)):
            setattr(self, name, like.new_zeros(0, like.shape[1], 0, like.shape[3]))
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write one token into each row; returns all rows up to the width of the step."""
        count = key_states.shape[0]
        rows = torch.arange(count, device=key_states.device)
        assert self.places is not None
        places = self.places.to(key_states.device)
        self.keys[rows, :, places] = key_states[:, :, 0]
        self.values[rows, :, places] = value_states[:, :, 0]
        return self.keys[:count, :, : self.width], self.values[:count, :, : self.width]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that a mask is for, and the first of them."""
        return self.width, 0

    def get_seq_length(self) -> int:
        """Nothing that anybody may count on: rows differ."""
        return 0

    def get_max_length(self) -> int:
        """There is no limit."""
        return -1


def as_cache(layers: Layers) -> DynamicCache:
    """What a prompt goes on from."""
    cache = DynamicCache()
    for number, (keys, values) in enumerate(layers):
        cache.update(keys, values, number)
    return cache


def layers_of(cache: DynamicCache) -> Layers:
    """The keys and values of a cache."""
    layers: list[Any] = list(cache.layers)
    return [(layer.keys, layer.values) for layer in layers]


@dataclass(frozen=True)
class _Entry:
    names: np.ndarray
    layers: Layers
    size: int


class PrefixCache:
    """Keys and values of what was read and written; those unused for longest leave first.

    Args:
        capacity: bytes that they may take together.

    Attributes:
        hits: positions that were found here.
        misses: positions that were looked for, and had to be computed.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.size = 0  # bytes
        self.hits = 0
        self.misses = 0
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._next = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, names: np.ndarray, dtype: torch.dtype) -> Layers | None:
        """The longest known beginning of a prompt, but not all of it: the last token is read.

        Args:
            names: of the positions: two are the same if all before them are, too.
            dtype: of the keys that the model makes now.
        """
        best, length = None, 0
        for number, entry in self._entries.items():
            shared = _common(entry.names, names[:-1])
            if shared > length and entry.layers[0][0].dtype == dtype:
                best, length = number, shared
        self.hits += length
        self.misses += len(names) - length
        if best is None:
            return None
        self._entries.move_to_end(best)
        return [
            (keys[:, :, :length], values[:, :, :length])
            for keys, values in self._entries[best].layers
        ]

    def put(self, names: Sequence[int] | np.ndarray, layers: Layers) -> None:
        """Keep the keys and values of these positions, unless they alone are too large."""
        names = np.asarray(names, dtype=np.int64)
        size = sum(keys.nbytes + values.nbytes for keys, values in layers)
        for number, entry in list(self._entries.items()):
            if _common(entry.names, names) == min(len(entry.names), len(names)):
                if len(entry.names) >= len(names):
                    self._entries.move_to_end(number)  # a longer one has it all
                    return
                self._drop(number)
        if size > self.capacity:
            return
        self._entries[self._next] = _Entry(names, layers, size)
        self._next += 1
        self.size += size
        while self.size > self.capacity:
            self._drop(next(iter(self._entries)))

    def _drop(self, number: int) -> None:
        self.size -= self._entries.pop(number).size


def _common(first: np.ndarray, second: np.ndarray) -> int:
    """How many names two rows begin with in common."""
    length = min(len(first), len(second))
    differ = np.flatnonzero(first[:length] != second[:length])
    return int(differ[0]) if len(differ) else length

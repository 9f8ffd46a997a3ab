"""Keys and values of the answers that are being written."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin

BLOCK = 64  # columns that rows grow by, at least
SEEN = 16  # columns that a step looks at are a multiple of this: kernels like even numbers
Layers = list[tuple[Tensor, Tensor]]  # keys and values, (1, heads, positions, width) each


@dataclass(frozen=True)
class StepSize:
    """Rows, tokens of each, and columns that are looked at, which are then a power of two."""

    rows: int = 0
    tokens: int = 0
    columns: int = 0


SMALLEST = StepSize()


class Rows(Cache):
    """Keys and values of several answers, each in a row of its own that begins at column 0.

    Rows are written to at different columns; what lies behind a row's last one is rubbish, which a
    mask has to hide. transformers' models take it as their cache.
    """

    def __init__(self, layers: int) -> None:
        self._rows = [_RowLayer() for _ in range(layers)]
        super().__init__(layers=list(self._rows))
        self.columns: list[int] = []  # used of each row
        self.step_width = 0  # columns that the step looks at

    def add(self, parts: Sequence[Layers]) -> None:
        """Begin a row with the keys and values of its prompt, or of what is known of it."""
        row, length = len(self.columns), 0
        for layers in parts:
            for layer, (keys, values) in zip(self._rows, layers, strict=True):
                layer.put(row, length, keys, values)
            length += layers[0][0].shape[2]
        self.columns.append(length)

    def extend(self, row: int, layers: Layers) -> None:
        """Add the keys and values of more tokens to a row."""
        start = self.columns[row]
        for layer, (keys, values) in zip(self._rows, layers, strict=True):
            layer.put(row, start, keys, values)
        self.columns[row] += layers[0][0].shape[2]

    def truncate(self, rows: int) -> None:
        """End all rows but the first ones, after an error: nothing of what they held stays."""
        for layer in self._rows:
            layer.erase(slice(rows, None))
        del self.columns[rows:]

    def erase(self, row: int) -> None:
        """Zero a row's memory: masked columns count nothing, but NaN times nothing is NaN."""
        for layer in self._rows:
            layer.erase(slice(row, row + 1))

    def fork(self, row: int, shared: int, rests: Sequence[range]) -> None:
        """Begin rows with the first columns of another; each goes on with other columns of it."""
        ends = [shared + len(rest) for rest in rests]
        for layer in self._rows:
            layer.reserve(len(self.columns) + len(rests), max(ends, default=0))
            layer.fork(row, len(self.columns), shared, rests)
        self.columns += ends

    def reserve(self, rows: int, columns: int) -> None:
        """Have memory for so many, at least."""
        for layer in self._rows:
            layer.reserve(rows, columns)

    def clear(self, kept: int) -> None:
        """End all rows. Their memory is for those to come, unless it is more than `kept` bytes."""
        self.columns.clear()
        if sum(layer.size for layer in self._rows) > kept:
            for layer in self._rows:
                layer.forget()

    def keep_in_place(self) -> None:
        """Promise to compiled code that the memory stays where it is, until it grows."""
        for layer in self._rows:
            for part in (layer.keys, layer.values):
                torch._dynamo.mark_static_address(part, guard=False)

    def remove(self, row: int) -> None:
        """End a row; the last one takes its place."""
        last = len(self.columns) - 1
        if row != last:
            for layer in self._rows:
                layer.move(last, row, self.columns[last])
        self.columns[row] = self.columns[last]
        self.columns.pop()

    def copy(self, row: int, start: int = 0) -> Layers:
        """What a row holds from column `start` on."""
        return [layer.copy(row, start, self.columns[row]) for layer in self._rows]

    def begin_step(
        self,
        device: torch.device,
        tokens: Sequence[int],
        first: int = 0,
        least: StepSize = SMALLEST,
    ) -> tuple[Tensor, Tensor]:
        """Make room for more tokens in the rows from `first` on; the step sees these rows alone.

        Args:
            device: of what comes back.
            tokens: for each row.
            first: row.
            least: how large the step is, at least; rows that are not in use get tokens of nothing.

        Returns:
            (rows, longest) columns that the tokens go to, and the tokens' positions. Rows end
            together; what a step gives a shorter one before its tokens goes behind them, and has
            the position of the last.
        """
        counts = torch.tensor(tokens)
        begins = torch.tensor(self.columns[first:])
        used = len(begins)
        unused = max(least.rows - used, 0)
        begins = torch.cat([begins, begins.new_zeros(unused)])
        counts = torch.cat([counts, counts.new_ones(unused)])
        longest = max(int(counts.max()), least.tokens)
        filling = (longest - counts).unsqueeze(-1)
        places = begins.unsqueeze(-1) + (torch.arange(longest) - filling) % longest
        self.step_width = -(-(int(begins.max()) + longest) // SEEN) * SEEN
        if least.columns:
            self.step_width = max(least.columns, 1 << (self.step_width - 1).bit_length())
        places = places.to(device)
        numbers = torch.arange(first, first + len(places), device=device).unsqueeze(-1)
        for layer in self._rows:
            layer.first, layer.cells, layer.width = first, (numbers, places), self.step_width
        if self._rows[0].is_initialized:
            # Compiled steps take a single row of a memory for several.
            self.reserve(max(first + len(begins), 2), self.step_width)
        self.columns[first:] = (begins + counts)[:used].tolist()
        last = (begins + counts - 1).unsqueeze(-1).to(device)
        return places, torch.minimum(places, last)


class _RowLayer(CacheLayerMixin):
    """One layer of `Rows`."""

    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
        self.first = 0
        self.cells: tuple[Tensor, Tensor] | None = None  # (rows, 1), (rows, tokens): written to
        self.width = 0
        self.keys: Any = None
        self.values: Any = None

    @property
    def size(self) -> int:
        """Bytes."""
        return self.keys.nbytes + self.values.nbytes if self.is_initialized else 0

    def forget(self) -> None:
        self.keys = self.values = None
        self.is_initialized = False

    def put(self, row: int, start: int, keys: Tensor, values: Tensor) -> None:
        end = start + keys.shape[2]
        if not self._takes(keys):
            self.lazy_initialization(keys, values)
        self.reserve(row + 1, end)
        self.keys[row, :, start:end] = keys[0]
        self.values[row, :, start:end] = values[0]

    def erase(self, rows: slice) -> None:
        if self.is_initialized:
            self.keys[rows] = 0
            self.values[rows] = 0

    def fork(self, source: int, target: int, shared: int, rests: Sequence[range]) -> None:
        for part in (self.keys, self.values):
            part[target : target + len(rests), :, :shared] = part[source, :, :shared]
            for row, rest in enumerate(rests, start=target):
                end = shared + len(rest)
                part[row, :, shared:end] = part[source, :, rest.start : rest.stop]

    def reserve(self, rows: int, columns: int) -> None:
        """Grow, by half as much again at least, so that growing is rare."""
        if not self.is_initialized:
            return
        have_rows, have_columns = self.keys.shape[0], self.keys.shape[2]
        if rows <= have_rows and columns <= have_columns:
            return
        if rows > have_rows:
            rows = max(rows, have_rows * 3 // 2)
        if columns > have_columns:
            columns = -(-max(columns, have_columns * 3 // 2) // BLOCK) * BLOCK
        rows, columns = max(rows, have_rows), max(columns, have_columns)
        # Both or none: there may be memory for one alone.
        self.keys, self.values = (_grown(old, rows, columns) for old in (self.keys, self.values))

    def _takes(self, keys: Tensor) -> bool:
        """Whether there is memory for keys of this kind."""
        if not self.is_initialized:
            return False
        return self.keys.dtype == keys.dtype and self.keys.device == keys.device

    def move(self, source: int, target: int, columns: int) -> None:
        for part in (self.keys, self.values):
            part[target, :, :columns] = part[source, :, :columns]

    def copy(self, row: int, start: int, end: int) -> tuple[Tensor, Tensor]:
        keys, values = (part[row : row + 1, :, start:end] for part in (self.keys, self.values))
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
        """Write a step's tokens into its rows; returns these up to the width of the step."""
        assert self.cells is not None
        end = self.first + key_states.shape[0]
        if not self._takes(key_states):  # nothing is known of any row
            self.lazy_initialization(key_states, value_states)
            self.reserve(end, self.width)
        rows, places = (cells.to(key_states.device) for cells in self.cells)
        self.keys[rows, :, places] = key_states.transpose(1, 2)
        self.values[rows, :, places] = value_states.transpose(1, 2)
        seen = slice(self.first, end), slice(None), slice(self.width)
        return self.keys[seen], self.values[seen]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that a mask is for, and the first of them."""
        return self.width, 0

    def get_seq_length(self) -> int:
        """Nothing that anybody may count on: rows differ."""
        return 0

    def get_max_length(self) -> int:
        """There is no limit."""
        return -1


def _grown(old: Tensor, rows: int, columns: int) -> Tensor:
    """(rows, heads, columns, width) that begins with what there is, and goes on with zeros."""
    grown = old.new_zeros(rows, old.shape[1], columns, old.shape[3])
    grown[: old.shape[0], :, : old.shape[2]] = old
    return grown


def as_cache(parts: Sequence[Layers]) -> DynamicCache:
    """What a prompt goes on from."""
    cache = DynamicCache()
    for layers in parts:
        for number, (keys, values) in enumerate(layers):
            cache.update(keys, values, number)
    return cache


def between(layers: Layers, start: int, end: int | None) -> Layers:
    """The keys and values of some positions; they share the memory of all."""
    return [(keys[:, :, start:end], values[:, :, start:end]) for keys, values in layers]


def layers_of(cache: DynamicCache) -> Layers:
    """The keys and values of a cache."""
    layers: list[Any] = list(cache.layers)
    return [(layer.keys, layer.values) for layer in layers]

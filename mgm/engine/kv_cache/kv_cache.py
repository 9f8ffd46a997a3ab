"""Batched KV cache that grows on demand: a row of keys and values for each running sequence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from mgm.engine.kv_cache.layer_kv import LayerKV

GROWTH_BLOCK = 64  # the allocated length is a multiple of this
WIDTH_MULTIPLE = 16  # the width of a step is a multiple of this: kernels prefer even sizes


@dataclass(frozen=True)
class PaddedSize:
    """Size that a step's batch is padded to, so that compiled steps (CUDA graphs) see few shapes.

    Attributes:
        rows: minimum number of rows.
        tokens: minimum number of new tokens per row.
        width: minimum number of attended columns; more are rounded up to a power of two.
    """

    rows: int = 0
    tokens: int = 0
    width: int = 0


NO_PADDING = PaddedSize()


class BatchKVCache(Cache):
    """KV cache of several sequences, each in a row of its own that starts at column 0.

    Rows have different lengths; entries beyond a row's length are garbage and must be masked.
    transformers' models take it as `past_key_values`.

    Args:
        layers: number of decoder layers.

    Attributes:
        lengths: number of valid columns of each row.
        step_width: columns that the current step attends to.
    """

    def __init__(self, layers: int) -> None:
        self._batch_layers = [BatchKVCacheLayer() for _ in range(layers)]
        super().__init__(layers=list(self._batch_layers))
        self.lengths: list[int] = []
        self.step_width = 0

    def add(self, parts: Sequence[LayerKV]) -> None:
        """Add a row with the keys and values of a prompt, or of its cached prefix, part by part."""
        row, length = len(self.lengths), 0
        for layers in parts:
            for layer, (keys, values) in zip(self._batch_layers, layers, strict=True):
                layer.write(row, length, keys, values)
            length += layers[0][0].shape[2]
        self.lengths.append(length)

    def extend(self, row: int, layers: LayerKV) -> None:
        """Append the keys and values of more tokens to a row."""
        start = self.lengths[row]
        for layer, (keys, values) in zip(self._batch_layers, layers, strict=True):
            layer.write(row, start, keys, values)
        self.lengths[row] += layers[0][0].shape[2]

    def truncate(self, rows: int) -> None:
        """Remove all rows but the first ones after an error, and zero their memory."""
        for layer in self._batch_layers:
            layer.zero(slice(rows, None))
        del self.lengths[rows:]

    def zero(self, row: int) -> None:
        """Zero a row's memory: masked columns have weight 0, but 0 times NaN is NaN."""
        for layer in self._batch_layers:
            layer.zero(slice(row, row + 1))

    def fork(self, row: int, prefix_length: int, suffixes: Sequence[range]) -> None:
        """Add rows that share a prefix with another, each with a suffix from other columns of it.

        Args:
            row: the row that holds the prefix and all suffixes.
            prefix_length: columns of the prefix.
            suffixes: columns of each suffix.
        """
        lengths = [prefix_length + len(suffix) for suffix in suffixes]
        for layer in self._batch_layers:
            layer.reserve(len(self.lengths) + len(suffixes), max(lengths, default=0))
            layer.fork(row, len(self.lengths), prefix_length, suffixes)
        self.lengths += lengths

    def reserve(self, rows: int, columns: int) -> None:
        """Allocate memory for at least this many rows and columns."""
        for layer in self._batch_layers:
            layer.reserve(rows, columns)

    def clear(self, max_bytes: int) -> None:
        """Remove all rows, and free their memory if it is more than `max_bytes`."""
        self.lengths.clear()
        if sum(layer.nbytes for layer in self._batch_layers) > max_bytes:
            for layer in self._batch_layers:
                layer.free()

    def mark_static(self) -> None:
        """Tell torch.compile that the memory keeps its address, until it grows."""
        for layer in self._batch_layers:
            for part in (layer.keys, layer.values):
                torch._dynamo.mark_static_address(part, guard=False)

    def free_row(self, row: int) -> None:
        """Free the row of a finished sequence; the last row moves to its index."""
        last = len(self.lengths) - 1
        if row != last:
            for layer in self._batch_layers:
                layer.move(last, row, self.lengths[last])
        self.lengths[row] = self.lengths[last]
        self.lengths.pop()

    def copy(self, row: int, start: int = 0) -> LayerKV:
        """A copy of a row's keys and values from column `start` on."""
        return [layer.copy(row, start, self.lengths[row]) for layer in self._batch_layers]

    def prepare_step(
        self,
        device: torch.device,
        token_counts: Sequence[int],
        first_row: int = 0,
        pad_to: PaddedSize = NO_PADDING,
    ) -> tuple[Tensor, Tensor]:
        """Assign columns of the cache to the tokens of the next forward pass, and grow the cache.

        The batch is left-padded, so that all rows end at the last token. Keys and values of padding
        go to the columns after the row's new tokens: masked, and overwritten by the next step.

        Args:
            device: device of the results.
            token_counts: new tokens of each row.
            first_row: first row of the batch.
            pad_to: size that the batch is padded to.

        Returns:
            (rows, tokens) columns that the tokens are written to, and their positions; padding
            has the position of the last token.
        """
        counts = torch.tensor(token_counts)
        starts = torch.tensor(self.lengths[first_row:])
        used = len(starts)
        unused = max(pad_to.rows - used, 0)
        starts = torch.cat([starts, starts.new_zeros(unused)])
        counts = torch.cat([counts, counts.new_ones(unused)])
        longest = max(int(counts.max()), pad_to.tokens)
        padding = (longest - counts).unsqueeze(-1)
        columns = starts.unsqueeze(-1) + (torch.arange(longest) - padding) % longest
        self.step_width = -(-(int(starts.max()) + longest) // WIDTH_MULTIPLE) * WIDTH_MULTIPLE
        if pad_to.width:
            self.step_width = max(pad_to.width, 1 << (self.step_width - 1).bit_length())
        columns = columns.to(device)
        rows = torch.arange(first_row, first_row + len(columns), device=device).unsqueeze(-1)
        for layer in self._batch_layers:
            layer.first_row, layer.write_to = first_row, (rows, columns)
            layer.width = self.step_width
        if self._batch_layers[0].is_initialized:
            # Two rows at least: torch.compile specialises on a batch dimension of 1.
            self.reserve(max(first_row + len(starts), 2), self.step_width)
        self.lengths[first_row:] = (starts + counts)[:used].tolist()
        last = (starts + counts - 1).unsqueeze(-1).to(device)
        return columns, torch.minimum(columns, last)


class BatchKVCacheLayer(CacheLayerMixin):
    """One layer of a `BatchKVCache`: keys and values of (rows, heads, columns, head width).

    Attributes:
        first_row: first row of the current step's batch.
        write_to: (rows, 1) rows and (rows, tokens) columns that the current step writes to.
        width: columns that the current step attends to.
    """

    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
        self.first_row = 0
        self.write_to: tuple[Tensor, Tensor] | None = None
        self.width = 0
        self.keys: Any = None
        self.values: Any = None

    @property
    def nbytes(self) -> int:
        """Size of the allocated memory."""
        return self.keys.nbytes + self.values.nbytes if self.is_initialized else 0

    def free(self) -> None:
        """Free the memory."""
        self.keys = self.values = None
        self.is_initialized = False

    def write(self, row: int, start: int, keys: Tensor, values: Tensor) -> None:
        """Write (1, heads, positions, head width) into a row from column `start` on."""
        end = start + keys.shape[2]
        if not self._matches(keys):
            self.lazy_initialization(keys, values)
        self.reserve(row + 1, end)
        self.keys[row, :, start:end] = keys[0]
        self.values[row, :, start:end] = values[0]

    def zero(self, rows: slice) -> None:
        """Zero the memory of rows."""
        if self.is_initialized:
            self.keys[rows] = 0
            self.values[rows] = 0

    def fork(self, source: int, target: int, prefix_length: int, suffixes: Sequence[range]) -> None:
        """Copy a prefix and each suffix of row `source` into rows from `target` on."""
        for part in (self.keys, self.values):
            part[target : target + len(suffixes), :, :prefix_length] = part[
                source, :, :prefix_length
            ]
            for row, suffix in enumerate(suffixes, start=target):
                end = prefix_length + len(suffix)
                part[row, :, prefix_length:end] = part[source, :, suffix.start : suffix.stop]

    def reserve(self, rows: int, columns: int) -> None:
        """Grow to at least this size, by at least half, so that growth is rare."""
        if not self.is_initialized:
            return
        old_rows, old_columns = self.keys.shape[0], self.keys.shape[2]
        if rows <= old_rows and columns <= old_columns:
            return
        if rows > old_rows:
            rows = max(rows, old_rows * 3 // 2)
        if columns > old_columns:
            columns = -(-max(columns, old_columns * 3 // 2) // GROWTH_BLOCK) * GROWTH_BLOCK
        rows, columns = max(rows, old_rows), max(columns, old_columns)
        # One assignment: if allocating the second fails, both keep their size.
        self.keys, self.values = (_grown(old, rows, columns) for old in (self.keys, self.values))

    def _matches(self, keys: Tensor) -> bool:
        """Whether memory is allocated with the dtype and device of these keys."""
        if not self.is_initialized:
            return False
        return self.keys.dtype == keys.dtype and self.keys.device == keys.device

    def move(self, source: int, target: int, columns: int) -> None:
        """Copy the first columns of a row to another."""
        for part in (self.keys, self.values):
            part[target, :, :columns] = part[source, :, :columns]

    def copy(self, row: int, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Copies of a row's keys and values in some columns."""
        keys, values = (part[row : row + 1, :, start:end] for part in (self.keys, self.values))
        return keys.clone(), values.clone()

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Take over the number of heads, head width, dtype and device; no rows and columns yet."""
        for name, like in (("keys", key_states), ("values", value_states)):
            setattr(self, name, like.new_zeros(0, like.shape[1], 0, like.shape[3]))
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the step's keys and values; returns those of its rows up to the step's width."""
        assert self.write_to is not None
        end = self.first_row + key_states.shape[0]
        if not self._matches(key_states):  # no row has a cached prefix in this case
            self.lazy_initialization(key_states, value_states)
            self.reserve(end, self.width)
        rows, columns = (indices.to(key_states.device) for indices in self.write_to)
        self.keys[rows, :, columns] = key_states.transpose(1, 2)
        self.values[rows, :, columns] = value_states.transpose(1, 2)
        attended = slice(self.first_row, end), slice(None), slice(self.width)
        return self.keys[attended], self.values[attended]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that a mask covers, and the offset of the first one."""
        return self.width, 0

    def get_seq_length(self) -> int:
        """Always 0: rows have different lengths, so callers pass `position_ids`."""
        return 0

    def get_max_length(self) -> int:
        """Always -1: the cache grows without limit."""
        return -1


def _grown(old: Tensor, rows: int, columns: int) -> Tensor:
    """A larger (rows, heads, columns, head width) with the old contents, zero elsewhere."""
    grown = old.new_zeros(rows, old.shape[1], columns, old.shape[3])
    grown[: old.shape[0], :, : old.shape[2]] = old
    return grown

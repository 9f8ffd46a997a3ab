"""One decode step: the language model on the last token(s) of every running sequence."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mgm.engine.core.device_errors import is_device_error
from mgm.engine.kv_cache.attention_masks import AttentionMasks
from mgm.engine.kv_cache.kv_cache import NO_PADDING, BatchKVCache, PaddedSize
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.model.ops.compile import check_compiler

MIN_WIDTH = 256  # columns that a compiled step attends to
# Rows and columns that steps are traced with: unlike any size of a model, or torch.compile would
# take both for the same symbol.
TRACE_ROWS, TRACE_COLUMNS = 7, 690


class DecodeRunner:
    """Runs the language model on the decode batch.

    Compiled, rows and width are padded to powers of two, so that few sizes, and few CUDA graphs,
    occur. Weights and KV cache are shared with the eager model.

    Args:
        model: the model.
        masks: builds the attention masks.
        max_tokens_per_row: maximum tokens per sequence: the last sampled one and a draft.
    """

    def __init__(
        self, model: MGMForConditionalGeneration, masks: AttentionMasks, max_tokens_per_row: int
    ) -> None:
        self._model = model
        self._masks = masks
        self._max_tokens_per_row = max_tokens_per_row
        self._compiled: Callable[..., Tensor] | None = None  # `_forward`

    @torch.inference_mode()
    def compile(self, **options: Any) -> None:
        """Compile the decode step, for one row and for several.

        Args:
            **options: options of `torch.compile`; by default CUDA graphs on a GPU.

        Raises:
            MGMError: torch.compile does not work here.
        """
        device = self._model.device
        if not options and device.type == "cuda":
            options = {"mode": "reduce-overhead"}
        check_compiler(device, **options)
        compiled = torch.compile(self._forward, dynamic=True, **options)
        for tokens_per_row in sorted({1, self._max_tokens_per_row}):
            kv_cache = BatchKVCache(self._model.config.text_config.num_hidden_layers)
            for _ in range(TRACE_ROWS):
                kv_cache.add([])
            tokens = [[0] * tokens_per_row] * TRACE_ROWS
            self._run(self._forward, tokens, kv_cache)
            kv_cache.lengths = [TRACE_COLUMNS] * TRACE_ROWS
            kv_cache.reserve(2 * TRACE_ROWS, 2 * TRACE_COLUMNS)
            self._run(compiled, tokens, kv_cache)
            kv_cache.lengths = [TRACE_COLUMNS]
            self._run(compiled, tokens[:1], kv_cache)
        self._compiled = compiled

    def step(self, tokens: Sequence[Sequence[int]], kv_cache: BatchKVCache) -> Tensor:
        """Run the model on the last tokens of every row.

        Args:
            tokens: tokens of each row: the last sampled one, then the draft.
            kv_cache: the KV cache with these rows; the tokens are appended to it.

        Returns:
            (rows, tokens, vocabulary) logits after each token; shorter rows are left-padded.
        """
        if self._compiled is None:
            return self._run(self._forward, tokens, kv_cache)
        torch.compiler.cudagraph_mark_step_begin()
        per_row = 1 if all(len(row) == 1 for row in tokens) else self._max_tokens_per_row
        pad_to = PaddedSize(_next_power_of_two(len(tokens)), per_row, MIN_WIDTH)
        logits = self._run(self._compiled, tokens, kv_cache, pad_to)
        return logits[: len(tokens)].clone()  # CUDA graphs reuse the memory in the next step

    def step_row_by_row(
        self, tokens: Sequence[int], kv_cache: BatchKVCache
    ) -> tuple[Tensor, dict[int, Exception]]:
        """Run the eager model on the last token of each row by itself, to isolate errors.

        Returns:
            (rows, 1, vocabulary) logits, zero in rows that raised an error; the errors, by row.

        Raises:
            torch.OutOfMemoryError, torch.AcceleratorError: the device is out of memory or failed.
        """
        text = self._model.config.text_config
        logits = torch.zeros(len(tokens), 1, text.vocab_size, device=self._model.device)
        errors: dict[int, Exception] = {}
        for row, token in enumerate(tokens):
            try:
                single = BatchKVCache(text.num_hidden_layers)
                single.add([kv_cache.copy(row)])
                logits[row] = self._run(self._forward, [[token]], single)[0, -1:]
                kv_cache.extend(row, single.copy(0, kv_cache.lengths[row]))
            except Exception as error:
                if is_device_error(error):
                    raise
                errors[row] = error
        return logits, errors

    def _run(
        self,
        forward: Callable[..., Tensor],
        tokens: Sequence[Sequence[int]],
        kv_cache: BatchKVCache,
        pad_to: PaddedSize = NO_PADDING,
    ) -> Tensor:
        device = self._model.device
        counts = [len(row) for row in tokens]
        columns, positions = kv_cache.prepare_step(device, counts, pad_to=pad_to)
        longest = columns.shape[1]
        padded = [[0] * (longest - len(row)) + list(row) for row in tokens]
        ids = torch.zeros_like(columns)
        ids[: len(tokens)] = torch.tensor(padded, device=device)
        if self._compiled is not None and device.type == "cuda":
            kv_cache.mark_static()  # otherwise CUDA graphs would copy it
        with self._masks.masked_attention():
            mask = self._masks.build(columns, kv_cache.step_width)
            return forward(ids, mask, positions, kv_cache)

    def _forward(self, ids: Tensor, mask: Any, positions: Tensor, kv_cache: BatchKVCache) -> Tensor:
        output = self._model.language_model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=kv_cache,
            use_cache=True,
        )
        return output.logits


def _next_power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()

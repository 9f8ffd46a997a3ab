"""Reads the last token of every answer that is being written, and tells what may come next."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mgm.engine.core.faults import is_device_fault
from mgm.engine.kv_cache.attention_masks import AttentionMasks
from mgm.engine.kv_cache.kv_cache import SMALLEST, Rows, StepSize
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.model.ops.compile import check_compiler

NARROWEST = 256  # columns of a compiled step, at least
# Rows and columns that steps are traced with: like no other size of a model, or both would be taken
# to be the same for ever.
TRACED = (7, 690)


class Decoder:
    """One call of the language model for all rows.

    Compiled, it runs with rows and columns filled up to powers of two: sizes, and with them what a
    GPU records of a step, are few. Weights, and keys and values, are those of the model.

    Args:
        model: what answers.
        masks: of its language model.
        longest: tokens of a row that a step reads, at most.
    """

    def __init__(
        self, model: MGMForConditionalGeneration, masks: AttentionMasks, longest: int
    ) -> None:
        self._model = model
        self._masks = masks
        self._longest = longest
        self._compiled: Callable[..., Tensor] | None = None  # `_logits`

    @torch.inference_mode()
    def compile(self, **options: Any) -> None:
        """Compile steps, for one row and for several.

        Args:
            **options: of `torch.compile`; left out: CUDA graphs on a GPU.

        Raises:
            MGMError: nothing can be compiled here.
        """
        device = self._model.device
        if not options and device.type == "cuda":
            options = {"mode": "reduce-overhead"}
        check_compiler(device, **options)
        compiled = torch.compile(self._logits, dynamic=True, **options)
        for longest in sorted({1, self._longest}):
            rows = Rows(self._model.config.text_config.num_hidden_layers)
            for _ in range(TRACED[0]):
                rows.add([])
            self._run(self._logits, [[0] * longest] * TRACED[0], rows)
            rows.columns = [TRACED[1]] * TRACED[0]
            rows.reserve(2 * TRACED[0], 2 * TRACED[1])
            self._run(compiled, [[0] * longest] * TRACED[0], rows)
            rows.columns = [TRACED[1]]
            self._run(compiled, [[0] * longest], rows)
        self._compiled = compiled

    def step(self, tokens: Sequence[Sequence[int]], rows: Rows) -> Tensor:
        """Read the last tokens of every row.

        Args:
            tokens: of each row, one at least.
            rows: keys and values, which grow by so many columns.

        Returns:
            (rows, most tokens, vocabulary) logits of what comes after each; rows end together.
        """
        if self._compiled is None:
            return self._run(self._logits, tokens, rows)
        torch.compiler.cudagraph_mark_step_begin()
        longest = 1 if all(len(row) == 1 for row in tokens) else self._longest
        least = StepSize(_power(len(tokens)), longest, NARROWEST)
        logits = self._run(self._compiled, tokens, rows, least)
        return logits[: len(tokens)].clone()  # the next step writes where it stands

    def step_each_alone(
        self, tokens: Sequence[int], rows: Rows
    ) -> tuple[Tensor, dict[int, Exception]]:
        """Read the last token of each row as if there were no other, not compiled.

        Returns:
            (rows, 1, vocabulary) logits of what comes after each, zero where an error was raised;
            the errors, by row.

        Raises:
            torch.OutOfMemoryError, torch.AcceleratorError: a fault of the device.
        """
        text = self._model.config.text_config
        logits = torch.zeros(len(tokens), 1, text.vocab_size, device=self._model.device)
        errors: dict[int, Exception] = {}
        for row, token in enumerate(tokens):
            try:
                alone = Rows(text.num_hidden_layers)
                alone.add([rows.copy(row)])
                logits[row] = self._run(self._logits, [[token]], alone)[0, -1:]
                rows.extend(row, alone.copy(0, rows.columns[row]))
            except Exception as error:
                if is_device_fault(error):
                    raise
                errors[row] = error
        return logits, errors

    def _run(
        self,
        call: Callable[..., Tensor],
        tokens: Sequence[Sequence[int]],
        rows: Rows,
        least: StepSize = SMALLEST,
    ) -> Tensor:
        device = self._model.device
        counts = [len(row) for row in tokens]
        places, positions = rows.begin_step(device, counts, least=least)
        longest = places.shape[1]
        filled = [[0] * (longest - len(row)) + list(row) for row in tokens]
        ids = torch.zeros_like(places)
        ids[: len(tokens)] = torch.tensor(filled, device=device)
        if self._compiled is not None and device.type == "cuda":
            rows.keep_in_place()  # or what a GPU records would copy them
        with self._masks.in_use():
            return call(ids, self._masks.of(places, rows.step_width), positions, rows)

    def _logits(self, ids: Tensor, mask: Any, positions: Tensor, rows: Rows) -> Tensor:
        output = self._model.language_model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=rows,
            use_cache=True,
        )
        return output.logits


def _power(count: int) -> int:
    """The next power of two."""
    return 1 << (count - 1).bit_length()

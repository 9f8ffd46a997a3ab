"""Reads the last token of every answer that is being written, and tells what may come next."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mgm.engine.attention_masks import AttentionMasks
from mgm.engine.key_values import Rows
from mgm.model.compilation import check_compiler
from mgm.model.mgm import MGMForConditionalGeneration

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
    """

    def __init__(self, model: MGMForConditionalGeneration, masks: AttentionMasks) -> None:
        self._model = model
        self._masks = masks
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
        rows = Rows(self._model.config.text_config.num_hidden_layers)
        for _ in range(TRACED[0]):
            rows.add([])
        self._run(self._logits, [0] * TRACED[0], rows)
        rows.columns = [TRACED[1]] * TRACED[0]
        rows.reserve(2 * TRACED[0], 2 * TRACED[1])
        self._run(compiled, [0] * TRACED[0], rows)
        rows.columns = [TRACED[1]]
        self._run(compiled, [0], rows)
        self._compiled = compiled

    def step(self, tokens: Sequence[int], rows: Rows) -> Tensor:
        """Read a token of every row.

        Args:
            tokens: the last of each.
            rows: keys and values, which grow by one column.

        Returns:
            (rows, vocabulary) logits of the next.
        """
        if self._compiled is None:
            return self._run(self._logits, tokens, rows)
        torch.compiler.cudagraph_mark_step_begin()
        logits = self._run(self._compiled, tokens, rows, _power(len(tokens)), NARROWEST)
        return logits[: len(tokens)].clone()  # the next step writes where it stands

    def _run(
        self,
        call: Callable[..., Tensor],
        tokens: Sequence[int],
        rows: Rows,
        least: int = 0,
        narrowest: int = 0,
    ) -> Tensor:
        device = self._model.device
        places = rows.begin_step(device, rows=least, narrowest=narrowest)
        ids = torch.zeros(len(places), 1, dtype=torch.long, device=device)
        ids[: len(tokens), 0] = torch.tensor(tokens, device=device)
        if self._compiled is not None and device.type == "cuda":
            rows.keep_in_place()  # or what a GPU records would copy them
        with self._masks.in_use():
            return call(ids, self._masks.of(places, rows.step_width), places, rows)

    def _logits(self, ids: Tensor, mask: Any, places: Tensor, rows: Rows) -> Tensor:
        output = self._model.language_model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=places,
            past_key_values=rows,
            use_cache=True,
        )
        return output.logits[:, -1]


def _power(count: int) -> int:
    """The next power of two."""
    return 1 << (count - 1).bit_length()

"""Many answers at a time: they join and leave between two steps, and none waits long for another.

A step reads a piece of the first prompt that waits, and gives every answer that is being written
its next token. Prompts are read alone, as the published code reads them; what is known of their
beginning is not computed again.
"""

from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from mgm.engine.generation import Generation
from mgm.engine.key_values import PrefixCache, Rows, as_cache, layers_of
from mgm.engine.sampler import choose
from mgm.errors import MGMError, one_line
from mgm.model.merging import merge_image_features
from mgm.model.mgm import MGMForConditionalGeneration

FULL, SLIDING = "full_attention", "sliding_attention"
MASKED = ("sdpa", "eager")  # attention that takes a mask of any kind


@dataclass
class _Reading:
    """A prompt that is being read."""

    generation: Generation
    embeddings: Tensor  # (1, positions, width), of what is not known yet
    cache: DynamicCache
    known: int  # positions in the cache


class Scheduler:
    """Writes answers together; one thread at a time may use it.

    Args:
        model: what answers.
        vocabulary: only ids below it are chosen; None: any that the model has.
        rows: answers that are written at once, at most.
        piece: positions of a prompt that are read in one step, at most.
        prefix_bytes: of keys and values that are kept for prompts that begin in the same way.
        row_bytes: of keys and values of all answers that are written together; one alone may take
            more.

    Attributes:
        prefixes: those keys and values.
        waiting: answers that are not begun.
        writing: answers that are, by row.

    Raises:
        MGMError: the language model keeps more of what it read than keys and values.
    """

    def __init__(
        self,
        model: MGMForConditionalGeneration,
        vocabulary: int | None = None,
        rows: int = 32,
        piece: int = 512,
        prefix_bytes: int = 2**29,
        row_bytes: int = 2**32,
    ) -> None:
        self.model = model
        self.vocabulary = vocabulary
        self.rows = rows
        self.piece = piece
        self.row_bytes = row_bytes
        self.prefixes = PrefixCache(prefix_bytes)
        self.waiting: deque[Generation] = deque()
        self.writing: list[Generation] = []
        self._reading: _Reading | None = None
        text = model.config.text_config
        kinds = set(getattr(text, "layer_types", None) or [FULL])
        if kinds - {FULL, SLIDING}:
            raise MGMError(
                f"the language model ({text.model_type}) has layers of kind "
                f"{', '.join(sorted(kinds - {FULL, SLIDING}))}, which the engine cannot run; "
                "use model.generate"
            )
        window = getattr(text, "sliding_window", None)
        self._window = window if getattr(text, "use_sliding_window", True) else None
        self._mixed = getattr(text, "layer_types", None) is not None and SLIDING in kinds
        self._keys = Rows(text.num_hidden_layers)

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting or self.writing or self._reading)

    def add(self, generation: Generation) -> None:
        """Let an answer wait for its turn."""
        self.waiting.append(generation)

    @torch.inference_mode()
    def cancel(self, generation: Generation) -> None:
        """End an answer as far as it is."""
        generation.finish("cancelled")
        if generation in self.waiting:
            self.waiting.remove(generation)
        if self._reading is not None and self._reading.generation is generation:
            self._reading = None
        self._leave()

    @torch.inference_mode()
    def step(self) -> None:
        """Read a piece of a prompt, and write one token of every answer.

        Raises:
            MGMError: the device has too little memory; all answers end with that.
        """
        try:
            self._read()
            self._write()
        except torch.OutOfMemoryError as error:
            fault = MGMError(
                f"the device has too little memory for {len(self.writing) + 1} answers at once "
                f"({one_line(error)[:200]}); ask for fewer, or shorter ones"
            )
            self.end(fault)
            raise fault from error
        except BaseException as error:
            self.end(MGMError(f"the model failed: {one_line(error)[:300]}"))
            raise

    def end(self, fault: MGMError) -> None:
        """End all answers with a fault."""
        reading = [] if self._reading is None else [self._reading.generation]
        for generation in (*self.waiting, *self.writing, *reading):
            generation.fail(fault)
        self.waiting.clear()
        self.writing.clear()
        self._reading = None
        self._keys = Rows(self.model.config.text_config.num_hidden_layers)

    def _read(self) -> None:
        self._leave()
        if self._reading is None and self.waiting and self._has_room():
            self._reading = self._begin(self.waiting.popleft())
        reading = self._reading
        if reading is None:
            return
        piece, rest = (
            reading.embeddings[:, : self.piece],
            reading.embeddings[:, self.piece :],
        )
        places = torch.arange(reading.known, reading.known + piece.shape[1], device=piece.device)
        output = self.model.language_model(
            inputs_embeds=piece,
            position_ids=places.unsqueeze(0),
            past_key_values=reading.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        reading.known += piece.shape[1]
        reading.embeddings = rest
        if rest.shape[1]:
            return
        self._reading = None
        generation = reading.generation
        layers = layers_of(reading.cache)
        self.prefixes.put(generation.names, layers)
        self._push(output.logits[:, -1], [generation])
        if generation.finish_reason is None:
            self._keys.add(layers)
            self.writing.append(generation)

    def _has_room(self) -> bool:
        """Whether the next answer may join those that are written: every row is as wide as any."""
        if not self.writing:
            return True
        together = [*self.writing, self.waiting[0]]
        widest = max(len(one.prompt_ids) + one.limit for one in together)
        bytes_needed = len(together) * widest * self._position_bytes
        return len(together) <= self.rows and bytes_needed <= self.row_bytes

    @property
    def _position_bytes(self) -> int:
        """Of one position's keys and values in all layers."""
        text = self.model.config.text_config
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return 2 * text.num_hidden_layers * heads * width * self.model.language_model.dtype.itemsize

    def _begin(self, generation: Generation) -> _Reading:
        """A prompt's embeddings, images merged, without what is known of it."""
        model = self.model
        embedding = model.get_input_embeddings()
        ids = torch.tensor([generation.prompt_ids], device=model.device)
        features = torch.stack(generation.features) if generation.features else None
        embeddings = merge_image_features(embedding, ids, features, model.config, None)
        dtype = model.language_model.dtype
        known = self.prefixes.find(generation.names, dtype)
        cache = DynamicCache() if known is None else as_cache(known)
        length = 0 if known is None else known[0][0].shape[2]
        generation.cached = length
        return _Reading(generation, embeddings[:, length:], cache, length)

    def _write(self) -> None:
        self._leave()
        if not self.writing:
            return
        model = self.model
        places = self._keys.begin_step(model.device)
        last = [[generation.choices[-1].token] for generation in self.writing]
        with self._masked_attention():
            output = model.language_model(
                input_ids=torch.tensor(last, device=model.device),
                attention_mask=self._masks(places),
                position_ids=places.unsqueeze(-1),
                past_key_values=self._keys,
                use_cache=True,
            )
        self._push(output.logits[:, -1], self.writing)
        self._leave()

    def _push(self, logits: Tensor, generations: list[Generation]) -> None:
        samplers = [generation.sampler for generation in generations]
        chosen = choose(logits[:, : self.vocabulary], samplers)
        for generation, choice in zip(generations, chosen, strict=True):
            if generation.finish_reason is None:
                generation.push(choice)
                generation.tell()

    def _leave(self) -> None:
        """Give the rows of answers that have ended to others; what they hold may come again."""
        for row in reversed(range(len(self.writing))):
            generation = self.writing[row]
            if generation.finish_reason is None:
                continue
            if generation.finish_reason != "error":
                read = self._keys.columns[row] - len(generation.names)
                written = np.array(generation.tokens[:read], dtype=np.int64)
                names = np.concatenate([generation.names, written])
                if len(names) == self._keys.columns[row]:
                    self.prefixes.put(names, self._keys.copy(row))
            self._keys.remove(row)
            self.writing[row] = self.writing[-1]
            self.writing.pop()
            if not self.writing:  # or rows would stay as wide as the longest ever was
                self._keys = Rows(self.model.config.text_config.num_hidden_layers)

    def _masks(self, places: Tensor) -> Any:
        """What each row's token sees: (rows, 1, 1, columns), by kind of layer if there are two."""
        columns = torch.arange(self._keys.step_width, device=places.device)
        behind = places.unsqueeze(-1) - columns  # how far each column is back
        full = self._mask(behind >= 0)
        if self._window is None:
            return full
        sliding = self._mask((behind >= 0) & (behind < self._window))
        return {FULL: full, SLIDING: sliding} if self._mixed else sliding

    def _mask(self, seen: Tensor) -> Tensor:
        seen = seen[:, None, None, :]
        if self.model.language_model.config._attn_implementation != "eager":
            return seen
        dtype = self.model.language_model.dtype
        zero = torch.zeros((), dtype=dtype, device=seen.device)
        return torch.where(seen, zero, torch.finfo(dtype).min)

    @contextmanager
    def _masked_attention(self) -> Generator[None]:
        """Attention that takes a mask for each row, which flash attention does not."""
        config = self.model.language_model.config
        chosen = config._attn_implementation
        if chosen in MASKED:
            yield
            return
        config._attn_implementation = "sdpa"
        try:
            yield
        finally:
            config._attn_implementation = chosen

"""Reads prompts: a long one in pieces, short ones together, and of each only what is new."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import DynamicCache

from mgm.engine.attention_masks import AttentionMasks
from mgm.engine.generation import Generation
from mgm.engine.key_values import Layers, Rows, as_cache, between, layers_of
from mgm.engine.prefix_cache import PrefixCache, common, copied
from mgm.model.merging import merge_image_features
from mgm.model.mgm import MGMForConditionalGeneration

WASTE = 1.5  # positions that prompts take side by side, at most, to those that are theirs


@dataclass
class _Prompt:
    """A prompt that is being read."""

    generation: Generation
    embeddings: Tensor  # (1, positions, width), of what is not known yet
    parts: list[Layers]  # keys and values of what is
    known: int  # its positions


class PromptReader:
    """Reads prompts, the first that waits before all others.

    Args:
        model: what answers.
        masks: of its language model.
        prefixes: what is known of prompts' beginnings; what is read goes there.
        piece: positions that are read in one step, at most.
    """

    def __init__(
        self,
        model: MGMForConditionalGeneration,
        masks: AttentionMasks,
        prefixes: PrefixCache,
        piece: int,
    ) -> None:
        self.model = model
        self.masks = masks
        self.prefixes = prefixes
        self.piece = piece
        self.reading: list[Generation] = []
        self._prompt: _Prompt | None = None  # one that takes several steps
        self._cache = DynamicCache()

    def drop(self, generation: Generation) -> None:
        """Read no more of this prompt."""
        if generation in self.reading:
            self.clear()

    def clear(self) -> None:
        """Read no more of anything."""
        self.reading.clear()
        self._prompt = None

    def step(
        self,
        waiting: deque[Generation],
        rows: Rows,
        has_room: Callable[[Sequence[Generation]], bool],
    ) -> tuple[list[Generation], Tensor] | None:
        """Read a piece of a prompt, or several short prompts.

        Args:
            waiting: whose prompts are to be read; those that are begun leave it.
            rows: get a row for every prompt that is read to its end, in that order.
            has_room: whether these may be written beside those that are.

        Returns:
            The answers whose prompts are read, and (answers, vocabulary) logits of their first
            tokens; None: there is none yet.
        """
        if self._prompt is not None:
            return self._read_piece(rows)
        together = self._choose(waiting, has_room)
        if not together:
            return None
        # Whoever ends everything after a fault finds them here.
        self.reading = together
        for generation in together:
            waiting.remove(generation)
        prompts = [self._begin(generation) for generation in together]
        if len(prompts) > 1:
            return self._read_together(prompts, rows)
        (self._prompt,) = prompts
        self._cache = as_cache(self._prompt.parts)
        return self._read_piece(rows)

    def _choose(
        self, waiting: Sequence[Generation], has_room: Callable[[Sequence[Generation]], bool]
    ) -> list[Generation]:
        """The first that waits, and others that are read in the same step."""
        chosen: list[Generation] = []
        new: list[int] = []  # positions to read of each
        for generation in waiting:
            full = chosen and (len(new) + 1) * max(new) > self.piece
            if full or not has_room([*chosen, generation]):
                break
            known = self.prefixes.known(generation.names, self._dtype)
            length = len(generation.names) - known
            lengths = [*new, length]
            area = len(lengths) * max(lengths)
            if chosen and (area > self.piece or area > WASTE * sum(lengths)):
                continue
            # What is known from another one when that is read waits, if that is most of it.
            if any(common(generation.names, one.names) - known > length // 2 for one in chosen):
                continue
            chosen.append(generation)
            new = lengths
        return chosen

    @property
    def _dtype(self) -> torch.dtype:
        return self.model.language_model.dtype

    def _begin(self, generation: Generation) -> _Prompt:
        """A prompt's embeddings, images merged, without what is known of it."""
        config, ids = self.model.config, generation.prompt_ids
        parts = self.prefixes.find(generation.names, self._dtype)
        known = sum(layers[0][0].shape[2] for layers in parts)
        image_positions = ids[:known].count(config.image_token_id)
        seen, within = divmod(image_positions, config.image_tokens_per_image)
        start = known - within  # where an image begins, if what is known ends within it
        features = generation.features[seen:]
        embeddings = merge_image_features(
            self.model.get_input_embeddings(),
            torch.tensor([ids[start:]], device=self.model.device),
            torch.stack(features) if features else None,
            config,
        )
        generation.cached = known
        return _Prompt(generation, embeddings[:, within:], parts, known)

    def _read_piece(self, rows: Rows) -> tuple[list[Generation], Tensor] | None:
        prompt = self._prompt
        assert prompt is not None
        piece, rest = prompt.embeddings[:, : self.piece], prompt.embeddings[:, self.piece :]
        places = torch.arange(prompt.known, prompt.known + piece.shape[1], device=piece.device)
        output = self.model.language_model(
            inputs_embeds=piece,
            position_ids=places.unsqueeze(0),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        prompt.known += piece.shape[1]
        prompt.embeddings = rest
        if rest.shape[1]:
            return None
        layers = layers_of(self._cache)
        self.clear()
        self.prefixes.put(
            prompt.generation.names,
            self._dtype,
            lambda start: copied(between(layers, start, None)),
        )
        rows.add([layers])
        return [prompt.generation], output.logits[:, -1]

    def _read_together(
        self, prompts: Sequence[_Prompt], rows: Rows
    ) -> tuple[list[Generation], Tensor]:
        """Read prompts side by side, each in its row; they end together, and begin where they may.

        What fills a shorter one up stands before it, and is written behind its end.
        """
        first = len(rows.columns)
        for prompt in prompts:
            rows.add(prompt.parts)
        counts = [prompt.embeddings.shape[1] for prompt in prompts]
        longest = max(counts)
        embeddings = prompts[0].embeddings.new_zeros(
            len(prompts), longest, prompts[0].embeddings.shape[2]
        )
        for row, prompt in enumerate(prompts):
            embeddings[row, longest - counts[row] :] = prompt.embeddings[0]
        places, positions = rows.begin_step(embeddings.device, counts, first)
        with self.masks.in_use():
            output = self.model.language_model(
                inputs_embeds=embeddings,
                attention_mask=self.masks.of(places, rows.step_width),
                position_ids=positions,
                past_key_values=rows,
                use_cache=True,
                logits_to_keep=1,
            )
        self.clear()
        for row, prompt in enumerate(prompts, start=first):
            self.prefixes.put(prompt.generation.names, self._dtype, partial(rows.copy, row))
        return [prompt.generation for prompt in prompts], output.logits[:, -1]

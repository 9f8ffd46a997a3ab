"""Reads prompts: a long one in pieces, short ones together, and of each only what is new.

What several begin with is read once. Questions about an image are one row: the image, and behind it
what follows in each, which sees the image and itself.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from mgm.engine.core.errors import GenerationError
from mgm.engine.core.sampler import MESSAGES, NOT_FINITE
from mgm.engine.core.sequence import Generation
from mgm.engine.kv_cache.attention_masks import AttentionMasks, Branches
from mgm.engine.kv_cache.kv_cache import Layers, Rows, as_cache, between, layers_of
from mgm.engine.kv_cache.prefix_cache import PrefixCache, copied
from mgm.engine.scheduler.shared_prefix import PromptTree
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.model.multimodal_embeddings import merge_image_features

WASTE = 1.5  # positions that rows take side by side, at most, to those that are theirs
HasRoom = Callable[[Sequence[Generation], int], bool]


@dataclass
class _Prompt:
    """A prompt that is being read."""

    generation: Generation
    embeddings: Tensor  # (1, positions, width), of what is not known yet
    known: int  # positions


class PromptReader:
    """Reads prompts, the first that waits before all others.

    Args:
        model: what answers.
        masks: of its language model.
        prefixes: what is known of prompts' beginnings; `keep` puts there what was read.
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
        self._to_keep: dict[Generation, Callable[[int], Layers]] = {}

    def keep(self) -> None:
        """Put what the last step read into the cache, but for prompts that ended with an error.

        Called before rows move: they hold it.
        """
        for generation, copy_from in self._to_keep.items():
            if generation.fault is None:
                self.prefixes.put(generation.names, self._dtype, copy_from)
        self._to_keep.clear()

    def drop(self, generation: Generation) -> None:
        """Read no more of this prompt."""
        if generation in self.reading:
            self.clear()

    def clear(self) -> None:
        """Read no more of anything."""
        self.reading = []
        self._prompt = None
        self._cache = DynamicCache()
        self._to_keep.clear()

    def step(
        self,
        waiting: deque[Generation],
        rows: Rows,
        has_room: HasRoom,
    ) -> tuple[list[Generation], Tensor] | None:
        """Read a piece of a prompt, or several short prompts.

        Args:
            waiting: whose prompts are to be read; those that are begun leave it.
            rows: get a row for every prompt that is read to its end, in that order.
            has_room: whether these may be written beside those that are, if a row of so many
                columns is needed.

        Returns:
            The answers whose prompts are read, and (answers, vocabulary) logits of their first
            tokens; None: there is none yet.
        """
        if self._prompt is not None:
            return self._read_piece(rows)
        trees = self._choose(waiting, has_room)
        if not trees:
            return None
        # Whoever ends everything after a fault finds them here.
        self.reading = [generation for tree in trees for generation in tree.generations]
        for generation in self.reading:
            waiting.remove(generation)
        if len(self.reading) > 1:
            return self._read_together(trees, rows)
        (generation,) = self.reading
        self._cache = as_cache(self._find(trees[0]))
        self._prompt = _Prompt(generation, self._embed(generation), generation.cached)
        return self._read_piece(rows)

    def _choose(self, waiting: Sequence[Generation], has_room: HasRoom) -> list[PromptTree]:
        """The first that waits, and others that are read in the same step."""
        trees: list[PromptTree] = []
        for generation in waiting:
            if generation.prefill_alone and trees:
                continue
            grown = self._with(trees, generation)
            lengths = [tree.length for tree in grown]
            area = len(lengths) * max(lengths)
            if trees and area > self.piece:
                joins = len(grown) == len(trees)
                if joins or len(grown) * max(lengths[:-1]) > self.piece:
                    break  # nor would what waits behind it fit, unless it is a few tokens
                continue
            if area > WASTE * sum(lengths):
                continue
            chosen = [one for tree in grown for one in tree.generations]
            if not has_room(chosen, max(tree.width for tree in grown)):
                break
            trees = grown
            if generation.prefill_alone:
                break
        return trees

    def _with(self, trees: Sequence[PromptTree], generation: Generation) -> list[PromptTree]:
        """One more prompt, in the tree that it belongs to or in one of its own."""
        known = self.prefixes.known(generation.names, self._dtype)
        for place, tree in enumerate(trees):
            joined = tree.joined_by(generation, known)
            if joined is not None:
                return [*trees[:place], joined, *trees[place + 1 :]]
        return [*trees, PromptTree.of(generation, known)]

    @property
    def _dtype(self) -> torch.dtype:
        return self.model.language_model.dtype

    def _find(self, tree: PromptTree) -> list[Layers]:
        """Keys and values of what is known of a tree."""
        first, *others = tree.generations
        parts = self.prefixes.find(first.names, self._dtype)
        first.cached = tree.known
        for generation in others:
            generation.cached = tree.shared
            self.prefixes.hits += tree.shared
            self.prefixes.misses += len(generation.names) - tree.shared
        return parts

    def _embed(self, generation: Generation) -> Tensor:
        """(1, positions, width) of what is not known of a prompt, images merged."""
        config, ids, known = self.model.config, generation.prompt_ids, generation.cached
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
        return embeddings[:, within:]

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
        layers, logits = layers_of(self._cache), output.logits[:, -1]
        rows.add([layers])
        self.clear()  # from here on nothing raises: whose fault it is would not be known
        self._to_keep[prompt.generation] = lambda start: copied(between(layers, start, None))
        return [prompt.generation], logits

    def _read_together(
        self, trees: Sequence[PromptTree], rows: Rows
    ) -> tuple[list[Generation], Tensor]:
        """Read prompts side by side, a tree in a row; they end together, and begin where they may.

        What fills a shorter one up stands before it, and is written behind its end.
        """
        first = len(rows.columns)
        for tree in trees:
            rows.add(self._find(tree))
        embeddings = pad_sequence(
            [self._embed_tree(tree) for tree in trees], batch_first=True, padding_side="left"
        )
        device, longest = embeddings.device, embeddings.shape[1]
        places, _ = rows.begin_step(device, [tree.length for tree in trees], first)
        tokens = [[(0, 0)] * (longest - tree.length) + list(tree.tokens()) for tree in trees]
        branches = Branches(*torch.tensor(tokens, device=device).unbind(-1))
        # The first prompt of a tree stays where it is, others get rows behind those of all trees.
        kept = [(row, tree.generations[0], tree.branches[0]) for row, tree in enumerate(trees)]
        forked = [
            (row, *branch)
            for row, tree in enumerate(trees)
            for branch in zip(tree.generations[1:], tree.branches[1:], strict=True)
        ]
        ends = [longest - trees[row].width + columns.stop - 1 for row, _, columns in kept + forked]
        # The LM head runs on the union of the rows' last positions: few, for rows end together.
        last_positions, columns_of_ends = torch.tensor(ends).unique(return_inverse=True)
        with self.masks.in_use():
            output = self.model.language_model(
                inputs_embeds=embeddings,
                attention_mask=self.masks.of(places, rows.step_width, branches),
                position_ids=branches.positions,
                past_key_values=rows,
                use_cache=True,
                logits_to_keep=last_positions.to(device),
            )
        logits = output.logits[[row for row, *_ in kept + forked], columns_of_ends]
        if forked and not logits.amax(-1).isfinite().all():
            # Masks hide the prompts of a row from one another, but NaN times nothing is NaN.
            raise GenerationError(MESSAGES[NOT_FINITE])
        for row, _, columns in kept:
            rows.columns[first + row] = columns.stop
        for row, tree in enumerate(trees):
            rows.fork(first + row, tree.shared, tree.branches[1:])
        self.clear()
        for row, generation, _ in kept:
            # What follows in the others is known when they end.
            self._to_keep[generation] = partial(rows.copy, first + row)
        return [generation for _, generation, _ in kept + forked], logits

    def _embed_tree(self, tree: PromptTree) -> Tensor:
        """(positions, width) of what is to be read."""
        return torch.cat([self._embed(one)[0] for one in tree.generations])

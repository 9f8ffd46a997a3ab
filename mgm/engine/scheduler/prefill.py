"""Chunked prefill: long prompts in chunks, short prompts as a batch, cached prefixes skipped.

Prompts of a batch that share a prefix, such as questions about one image, share a row: see
`shared_prefix.py`.
"""

from collections import abc, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from mgm.engine.core.errors import GenerationError
from mgm.engine.core.sampler import MESSAGES, NOT_FINITE
from mgm.engine.core.sequence import Sequence
from mgm.engine.kv_cache.attention_masks import AttentionMasks, Branches
from mgm.engine.kv_cache.kv_cache import BatchKVCache
from mgm.engine.kv_cache.layer_kv import (
    LayerKV,
    copy_kv,
    slice_kv,
    to_dynamic_cache,
    to_layers,
)
from mgm.engine.kv_cache.prefix_cache import PrefixCache
from mgm.engine.scheduler.shared_prefix import PrefixGroup
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.model.multimodal_embeddings import merge_image_features

MAX_PADDING = 1.5  # maximum ratio of a padded batch's size to its number of tokens
Fits = Callable[[abc.Sequence[Sequence], int], bool]


@dataclass
class _ChunkedPrompt:
    """A prompt that is prefilled in several steps."""

    sequence: Sequence
    embeddings: Tensor  # (1, positions, width) of positions that are not prefilled yet
    num_computed_tokens: int  # prefilled tokens, cached ones included


class Prefiller:
    """Prefills prompts in the order of the waiting queue.

    Args:
        model: the model.
        masks: builds the attention masks.
        prefix_cache: the prefix cache; `update_prefix_cache` adds to it.
        max_prefill_tokens: per step, see `SchedulerConfig`.

    Attributes:
        prefilling: sequences whose prompts are being prefilled.
    """

    def __init__(
        self,
        model: MGMForConditionalGeneration,
        masks: AttentionMasks,
        prefix_cache: PrefixCache,
        max_prefill_tokens: int,
    ) -> None:
        self._model = model
        self._masks = masks
        self._prefix_cache = prefix_cache
        self._max_tokens = max_prefill_tokens
        self.prefilling: list[Sequence] = []
        self._chunked: _ChunkedPrompt | None = None
        self._cache = DynamicCache()  # keys and values of the chunked prompt
        self._prefilled: dict[Sequence, Callable[[int], LayerKV]] = {}  # not cached yet

    def update_prefix_cache(self) -> None:
        """Add the last step's prompts to the prefix cache, but those that failed.

        To be called before rows of the KV cache move: the keys and values are copied from there.
        """
        for sequence, copy_from in self._prefilled.items():
            if sequence.error is None:
                self._prefix_cache.insert(sequence.token_keys, self._dtype, copy_from)
        self._prefilled.clear()

    def abort(self, sequence: Sequence) -> None:
        """Stop the prefill of a sequence's prompt, if it is under way."""
        if sequence in self.prefilling:
            self.clear()

    def clear(self) -> None:
        """Stop all prefill."""
        self.prefilling = []
        self._chunked = None
        self._cache = DynamicCache()
        self._prefilled.clear()

    def step(
        self,
        waiting: deque[Sequence],
        kv_cache: BatchKVCache,
        fits: Fits,
    ) -> tuple[list[Sequence], Tensor] | None:
        """Prefill one chunk of a long prompt, or a batch of short ones.

        Args:
            waiting: the queue; sequences leave it when their prefill starts.
            kv_cache: gets a row for each prompt that is complete, in the order of the result.
            fits: whether these sequences can run beside the running ones (`max_num_seqs` and KV
                cache memory), in rows of at least that width.

        Returns:
            The sequences whose prompts are complete, and (sequences, vocabulary) logits of their
            first output tokens; None: no prompt is complete.
        """
        if self._chunked is not None:
            return self._prefill_chunk(kv_cache)
        groups = self._select_batch(waiting, fits)
        if not groups:
            return None
        # If a later call raises, the scheduler ends the sequences of this list with the error.
        self.prefilling = [sequence for group in groups for sequence in group.sequences]
        for sequence in self.prefilling:
            waiting.remove(sequence)
        if len(self.prefilling) > 1:
            return self._prefill_batch(groups, kv_cache)
        (sequence,) = self.prefilling
        self._cache = to_dynamic_cache(self._match_prefix(groups[0]))
        embeddings = self._embed(sequence)
        self._chunked = _ChunkedPrompt(sequence, embeddings, sequence.num_cached_tokens)
        return self._prefill_chunk(kv_cache)

    def _select_batch(self, waiting: abc.Sequence[Sequence], fits: Fits) -> list[PrefixGroup]:
        """Select the first waiting sequence, and later ones that are prefilled in the same batch.

        A batch has a row for each group of prompts with a common prefix. Its padded size is limited
        by the step's token budget, and to `MAX_PADDING` times its tokens. A prompt that does
        not fit is skipped, and stays first in the queue for a later step; the search ends when even
        a short prompt would not fit.
        """
        groups: list[PrefixGroup] = []
        for sequence in waiting:
            if sequence.prefill_alone and groups:
                continue
            extended = self._with_sequence(groups, sequence)
            lengths = [group.num_tokens for group in extended]
            padded_size = len(lengths) * max(lengths)
            if groups and padded_size > self._max_tokens:
                shares_row = len(extended) == len(groups)
                if shares_row or len(extended) * max(lengths[:-1]) > self._max_tokens:
                    break  # one more row of the present length exceeds the budget
                continue  # only this prompt is too long
            if padded_size > MAX_PADDING * sum(lengths):
                continue
            selected = [one for group in extended for one in group.sequences]
            if not fits(selected, max(group.width for group in extended)):
                break
            groups = extended
            if sequence.prefill_alone:
                break
        return groups

    def _with_sequence(
        self, groups: abc.Sequence[PrefixGroup], sequence: Sequence
    ) -> list[PrefixGroup]:
        """Add a sequence to the first group that it shares a prefix with, or to a new group."""
        cached_length = self._prefix_cache.match_length(sequence.token_keys, self._dtype)
        for index, group in enumerate(groups):
            extended = group.try_add(sequence, cached_length)
            if extended is not None:
                return [*groups[:index], extended, *groups[index + 1 :]]
        return [*groups, PrefixGroup.of_one(sequence, cached_length)]

    @property
    def _dtype(self) -> torch.dtype:
        return self._model.language_model.dtype

    def _match_prefix(self, group: PrefixGroup) -> list[LayerKV]:
        """Keys and values of a group's cached prefix; counts cached tokens."""
        first, *others = group.sequences
        parts = self._prefix_cache.match_prefix(first.token_keys, self._dtype)
        first.num_cached_tokens = group.cached_length
        for sequence in others:
            sequence.num_cached_tokens = group.prefix_length
            self._prefix_cache.hits += group.prefix_length
            self._prefix_cache.misses += len(sequence.token_keys) - group.prefix_length
        return parts

    def _embed(self, sequence: Sequence) -> Tensor:
        """(1, positions, width) input embeddings of uncached positions, image features merged."""
        config, ids, cached = self._model.config, sequence.prompt_ids, sequence.num_cached_tokens
        image_positions = ids[:cached].count(config.image_token_id)
        cached_images, within = divmod(image_positions, config.image_tokens_per_image)
        start = cached - within  # the start of the image that the cached prefix ends within
        features = sequence.image_features[cached_images:]
        embeddings = merge_image_features(
            self._model.get_input_embeddings(),
            torch.tensor([ids[start:]], device=self._model.device),
            torch.stack(features) if features else None,
            config,
        )
        return embeddings[:, within:]

    def _prefill_chunk(self, kv_cache: BatchKVCache) -> tuple[list[Sequence], Tensor] | None:
        prompt = self._chunked
        assert prompt is not None
        chunk = prompt.embeddings[:, : self._max_tokens]
        rest = prompt.embeddings[:, self._max_tokens :]
        start, end = prompt.num_computed_tokens, prompt.num_computed_tokens + chunk.shape[1]
        output = self._model.language_model(
            inputs_embeds=chunk,
            position_ids=torch.arange(start, end, device=chunk.device).unsqueeze(0),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        prompt.num_computed_tokens, prompt.embeddings = end, rest
        if rest.shape[1]:
            return None
        layers, logits = to_layers(self._cache), output.logits[:, -1]
        kv_cache.add([layers])
        self.clear()  # nothing after this may raise, for `prefilling` is empty now
        self._prefilled[prompt.sequence] = lambda first: copy_kv(slice_kv(layers, first, None))
        return [prompt.sequence], logits

    def _prefill_batch(
        self, groups: abc.Sequence[PrefixGroup], kv_cache: BatchKVCache
    ) -> tuple[list[Sequence], Tensor]:
        """Prefill a left-padded batch with a row for each group, then fork a row per sequence."""
        first_row = len(kv_cache.lengths)
        for group in groups:
            kv_cache.add(self._match_prefix(group))
        embeddings = pad_sequence(
            [self._embed_group(group) for group in groups], batch_first=True, padding_side="left"
        )
        device, longest = embeddings.device, embeddings.shape[1]
        counts = [group.num_tokens for group in groups]
        columns, _ = kv_cache.prepare_step(device, counts, first_row)
        tokens = [
            [(0, 0)] * (longest - group.num_tokens) + list(group.tokens()) for group in groups
        ]
        branches = Branches(*torch.tensor(tokens, device=device).unbind(-1))
        # A group's first sequence keeps its row, the others get rows behind those of all groups.
        kept = [(row, group.sequences[0], group.suffixes[0]) for row, group in enumerate(groups)]
        forked = [
            (row, *branch)
            for row, group in enumerate(groups)
            for branch in zip(group.sequences[1:], group.suffixes[1:], strict=True)
        ]
        rows = [row for row, *_ in kept + forked]
        ends = [longest - groups[row].width + suffix.stop - 1 for row, _, suffix in kept + forked]
        # The LM head runs on the union of the rows' last positions; left padding makes them few.
        last_positions, logit_indices = torch.tensor(ends).unique(return_inverse=True)
        with self._masks.masked_attention():
            output = self._model.language_model(
                inputs_embeds=embeddings,
                attention_mask=self._masks.build(columns, kv_cache.step_width, branches),
                position_ids=branches.positions,
                past_key_values=kv_cache,
                use_cache=True,
                logits_to_keep=last_positions.to(device),
            )
        logits = output.logits[rows, logit_indices]
        if forked and not logits.amax(-1).isfinite().all():
            # Masks separate the prompts of a row, but 0 times NaN is NaN.
            raise GenerationError(MESSAGES[NOT_FINITE])
        for row, _, suffix in kept:
            kv_cache.lengths[first_row + row] = suffix.stop
        for row, group in enumerate(groups):
            kv_cache.fork(first_row + row, group.prefix_length, group.suffixes[1:])
        self.clear()
        for row, sequence, _ in kept:
            # Suffixes of the others are cached when they finish.
            self._prefilled[sequence] = partial(kv_cache.copy, first_row + row)
        return [sequence for _, sequence, _ in kept + forked], logits

    def _embed_group(self, group: PrefixGroup) -> Tensor:
        """(positions, width) input embeddings of a group's row."""
        return torch.cat([self._embed(one)[0] for one in group.sequences])

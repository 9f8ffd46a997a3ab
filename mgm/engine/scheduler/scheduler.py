"""Continuous batching: sequences join and leave between decode steps; long prompts are prefilled
in chunks.
"""

from bisect import bisect_right
from collections import abc, deque
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mgm.engine.core.device_errors import as_request_error, is_device_failure
from mgm.engine.core.errors import GenerationError
from mgm.engine.core.sequence import Sequence
from mgm.engine.kv_cache.attention_masks import AttentionMasks
from mgm.engine.kv_cache.kv_cache import BatchKVCache
from mgm.engine.kv_cache.memory import cache_bytes, kv_bytes_per_token
from mgm.engine.kv_cache.prefix_cache import PrefixCache
from mgm.engine.scheduler.config import SchedulerConfig
from mgm.engine.scheduler.decode import DecodeRunner
from mgm.engine.scheduler.ngram_drafter import MAX_NGRAM, Draft, NGramDrafter
from mgm.engine.scheduler.prefill import Prefiller
from mgm.engine.scheduler.verification import sample_and_verify
from mgm.errors import MGMError, one_line
from mgm.model.modeling_mgm import MGMForConditionalGeneration


class Scheduler:
    """Runs prefill and decode steps for all sequences; not thread-safe.

    Args:
        model: the model.
        config: batch sizes, prefill policy and memory.
        vocabulary_size: only token ids below it are sampled; None: all that the model has.
        num_speculative_tokens: maximum length of n-gram drafts; 0: no speculative decoding.

    Attributes:
        config: settings of this scheduler.
        prefix_cache: keys and values of earlier prompts and outputs.
        drafter: proposes draft tokens.
        prefiller: prefills prompts.
        decode_runner: runs decode steps.
        waiting: sequences whose prefill has not started.
        running: the decode batch: sequences by their rows of the KV cache.

    Raises:
        MGMError: the language model has other state than a KV cache, or `num_speculative_tokens`
            is negative.
    """

    def __init__(
        self,
        model: MGMForConditionalGeneration,
        config: SchedulerConfig,
        vocabulary_size: int | None = None,
        num_speculative_tokens: int = 0,
    ) -> None:
        self.config = config
        self._model = model
        self._vocabulary_size = vocabulary_size
        self._max_kv_bytes = config.kv_cache_bytes or cache_bytes(model, 3, 2**32)
        self.prefix_cache = PrefixCache(config.prefix_cache_bytes or cache_bytes(model, 16, 2**29))
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._num_prefilled = 0  # sequences prefilled so far
        masks = AttentionMasks(model)
        self.drafter = NGramDrafter(num_speculative_tokens)
        self.prefiller = Prefiller(model, masks, self.prefix_cache, config.max_prefill_tokens)
        self.decode_runner = DecodeRunner(model, masks, 1 + num_speculative_tokens)
        self._kv_cache = self._empty_kv_cache()

    @property
    def busy(self) -> bool:
        """Whether any sequence is waiting or running."""
        return bool(self.waiting or self.running or self.prefiller.prefilling)

    def add(self, sequence: Sequence, index: int = 0) -> None:
        """Put a sequence into the waiting queue.

        A request for many sequences does not make others wait for all of them: after each of its
        sequences, up to `max_num_seqs` that came later are prefilled.

        Args:
            sequence: the sequence.
            index: its index among the sequences of its request.
        """
        sequence.queue_rank = self._num_prefilled + index * self.config.max_num_seqs
        position = bisect_right(self.waiting, sequence.queue_rank, key=lambda one: one.queue_rank)
        self.waiting.insert(position, sequence)

    @torch.inference_mode()
    def cancel(self, sequence: Sequence) -> None:
        """Finish a sequence; it keeps its output so far."""
        sequence.finish("cancelled")
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        self.prefiller.abort(sequence)
        self._remove_finished()

    @torch.inference_mode()
    def step(self) -> None:
        """Prefill a chunk or a batch of prompts, and decode the next token of running sequences.

        Raises:
            MGMError: the device ran out of memory; all sequences fail with it.
        """
        try:
            if not self.config.prefill_first:
                self._prefill()
            elif len(self.running) <= self.config.max_num_seqs // 2:
                # An eighth may stay free: prefilling the last few rows takes as long as many.
                free = self.config.max_num_seqs // 8
                while self.config.max_num_seqs - len(self.running) > free and self._prefill():
                    pass
            self._decode()
        except torch.OutOfMemoryError as error:
            count = len(self.running) + len(self.prefiller.prefilling)
            failure = GenerationError(
                f"the device ran out of memory with {count} running sequences "
                f"({one_line(error)[:200]}); send fewer requests at once, or shorter ones"
            )
            self.fail_all(failure)
            raise failure from error
        except BaseException as error:
            self.fail_all(GenerationError(f"the model failed: {one_line(error)[:300]}"))
            raise

    def fail_all(self, error: MGMError) -> None:
        """Finish all sequences with an error."""
        for sequence in (*self.waiting, *self.running, *self.prefiller.prefilling):
            sequence.fail(error)
        self.waiting.clear()
        self.running.clear()
        self.prefiller.clear()
        self._kv_cache = self._empty_kv_cache()

    def _empty_kv_cache(self) -> BatchKVCache:
        return BatchKVCache(self._model.config.text_config.num_hidden_layers)

    def _prefill(self) -> bool:
        """Run a prefill step; returns whether there was a prompt that fits."""
        self._remove_finished()
        try:
            prefilled = self.prefiller.step(self.waiting, self._kv_cache, self._fits)
        except Exception as error:
            if is_device_failure(error):
                raise
            self._handle_prefill_error(error)
            return True
        if prefilled is not None:
            sequences, logits = prefilled
            self.running += sequences
            self._num_prefilled += len(sequences)
            self._sample(logits.unsqueeze(1), sequences, [Draft()] * len(sequences))
            self.prefiller.update_prefix_cache()
        return prefilled is not None or bool(self.prefiller.prefilling)

    def _handle_prefill_error(self, error: Exception) -> None:
        """Fail the sequence whose prefill raised an error; retry a batch one prompt at a time.

        Out of memory is handled alike: the batch was too large, or one prompt too long.
        """
        suspects = self.prefiller.prefilling
        self.prefiller.clear()
        self._kv_cache.truncate(len(self.running))
        if not suspects:  # the error was raised while a batch was selected
            suspects = list(self.waiting)
            self.waiting.clear()
        if not suspects:
            raise error
        if len(suspects) == 1 or suspects[0].prefill_alone:
            suspects.pop(0).fail(as_request_error(error, "prefilling a prompt"))
        for sequence in reversed(suspects):
            sequence.prefill_alone = True
            self.waiting.appendleft(sequence)

    def _fits(self, sequences: abc.Sequence[Sequence], min_width: int) -> bool:
        """Whether sequences fit into the decode batch, whose rows all have the largest width.

        Args:
            sequences: candidates for the batch.
            min_width: minimum columns of a row.
        """
        batch = [*self.running, *sequences]
        if len(batch) == 1:
            return True
        width = max(min_width, *(sequence.max_length for sequence in batch))
        kv_bytes = len(batch) * width * kv_bytes_per_token(self._model)
        return len(batch) <= self.config.max_num_seqs and kv_bytes <= self._max_kv_bytes

    def _decode(self) -> None:
        """Run a decode step for all running sequences."""
        self._remove_finished()
        if not self.running:
            return
        drafts = self.drafter.truncate_to_throughput([self._propose(one) for one in self.running])
        tokens = [
            [sequence.output[-1].token, *draft.tokens]
            for sequence, draft in zip(self.running, drafts, strict=True)
        ]
        lengths = list(self._kv_cache.lengths)
        try:
            logits = self.decode_runner.step(tokens, self._kv_cache)
        except Exception as error:
            if is_device_failure(error):
                raise
            self._kv_cache.lengths[:] = lengths  # columns written beyond them are masked
            drafts = [Draft()] * len(self.running)
            logits = self._decode_row_by_row()
        accepted = self._sample(logits, self.running, drafts)
        for row, draft in enumerate(drafts):
            self._kv_cache.lengths[row] -= len(draft.tokens) - accepted[row]
        self.drafter.record_acceptance(drafts, sum(accepted))
        self._remove_finished()

    def _decode_row_by_row(self) -> Tensor:
        """(sequences, 1, vocabulary) logits, row by row; sequences whose rows raise again fail."""
        tokens = [sequence.output[-1].token for sequence in self.running]
        logits, errors = self.decode_runner.step_row_by_row(tokens, self._kv_cache)
        for row, error in errors.items():
            self.running[row].fail(as_request_error(error, "decoding a token"))
        return logits

    def _propose(self, sequence: Sequence) -> Draft:
        remaining = sequence.max_new_tokens - len(sequence.output) - 1
        return self.drafter.propose(sequence.last_ids(MAX_NGRAM), remaining, sequence.stop_ids)

    def _sample(
        self, logits: Tensor, sequences: list[Sequence], drafts: abc.Sequence[Draft]
    ) -> list[int]:
        logits = logits[..., : self._vocabulary_size]
        return sample_and_verify(logits, sequences, drafts, self.drafter)

    def _remove_finished(self) -> None:
        """Free the rows of finished sequences; the prefix cache may keep their keys and values."""
        for row in reversed(range(len(self.running))):
            sequence = self.running[row]
            if sequence.finish_reason is None:
                continue
            if sequence.error is not None:
                self._kv_cache.zero(row)
            elif self.config.cache_completions:
                self._cache_completion(row)
            self._kv_cache.free_row(row)
            self.running[row] = self.running[-1]
            self.running.pop()
            if not self.running:  # free memory of the widest row so far
                self._kv_cache.clear(self._max_kv_bytes // 8)

    def _cache_completion(self, row: int) -> None:
        """Put the keys and values of a row, prompt and output, into the prefix cache."""
        sequence = self.running[row]
        num_output = self._kv_cache.lengths[row] - len(sequence.token_keys)
        output_ids = np.array(sequence.output_ids[:num_output], dtype=np.int64)
        token_keys = np.concatenate([sequence.token_keys, output_ids])
        if len(token_keys) == self._kv_cache.lengths[row]:
            dtype = self._model.language_model.dtype
            self.prefix_cache.insert(token_keys, dtype, partial(self._kv_cache.copy, row))

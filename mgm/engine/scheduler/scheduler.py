"""Many answers at a time: they join and leave between two steps, and none waits long for another.

A step reads a piece of the first prompt that waits, or several short prompts, and gives every
answer that is being written its next token, or several if it was guessed how the answer goes on.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mgm.engine.core.errors import GenerationError
from mgm.engine.core.faults import as_fault, is_device_failure
from mgm.engine.core.sampler import choose
from mgm.engine.core.sampling import Choice
from mgm.engine.core.sequence import Generation
from mgm.engine.kv_cache.attention_masks import AttentionMasks
from mgm.engine.kv_cache.kv_cache import Rows
from mgm.engine.kv_cache.prefix_cache import PrefixCache
from mgm.engine.scheduler.decode import Decoder
from mgm.engine.scheduler.ngram_drafter import LONGEST, Drafts, Guess
from mgm.engine.scheduler.prefill import PromptReader
from mgm.errors import MGMError, one_line
from mgm.model.modeling_mgm import MGMForConditionalGeneration


class Scheduler:
    """Writes answers together; one thread at a time may use it.

    Args:
        model: what answers.
        vocabulary: only ids below it are chosen; None: any that the model has.
        rows: answers that are written at once, at most.
        piece: positions of prompts that are read in one step, at most.
        prefix_bytes: of keys and values that are kept for prompts that begin in the same way.
        row_bytes: of keys and values of all answers that are written together; one alone may take
            more.
        num_speculative_tokens: that are guessed and read with an answer's last token, at most.

    Attributes:
        prefixes: those keys and values.
        drafts: guesses.
        reader: reads prompts.
        decoder: reads what was written.
        waiting: answers that are not begun.
        writing: answers that are, by row.
        prompts_first: whether rows are filled before a token is written, to an eighth, and not
            before half of them are free: more answers a second, but a token may wait long for the
            next.
        keeps_answers: whether what was read of a prompt that ends, and of its answer, is kept for
            prompts that go on from there.

    Raises:
        MGMError: the language model keeps more of what it read than keys and values, or
            `num_speculative_tokens` is negative.
    """

    def __init__(
        self,
        model: MGMForConditionalGeneration,
        vocabulary: int | None = None,
        rows: int = 32,
        piece: int = 512,
        prefix_bytes: int = 2**29,
        row_bytes: int = 2**32,
        num_speculative_tokens: int = 0,
    ) -> None:
        self.model = model
        self.vocabulary = vocabulary
        self.rows = rows
        self.row_bytes = row_bytes
        self.prefixes = PrefixCache(prefix_bytes)
        self.waiting: deque[Generation] = deque()
        self._prefilled = 0  # sequences, since the beginning
        self.writing: list[Generation] = []
        self.prompts_first = False
        self.keeps_answers = True
        masks = AttentionMasks(model)
        self.drafts = Drafts(num_speculative_tokens)
        self.reader = PromptReader(model, masks, self.prefixes, piece)
        self.decoder = Decoder(model, masks, longest=1 + self.drafts.most)
        self._keys = self._rows_of_none()

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting or self.writing or self.reader.reading)

    def add(self, generation: Generation, number: int = 0) -> None:
        """Put a sequence into the queue.

        One client's request for many sequences does not keep others waiting for all of them: behind
        each, as many that came later may be prefilled as are decoded at once.

        Args:
            generation: the sequence.
            number: of its request's sequences that come before it.
        """
        generation.rank = self._prefilled + number * self.rows
        index = bisect_right(self.waiting, generation.rank, key=lambda other: other.rank)
        self.waiting.insert(index, generation)

    @torch.inference_mode()
    def cancel(self, generation: Generation) -> None:
        """End an answer as far as it is."""
        generation.finish("cancelled")
        if generation in self.waiting:
            self.waiting.remove(generation)
        self.reader.drop(generation)
        self._leave()

    @torch.inference_mode()
    def step(self) -> None:
        """Read a piece of a prompt, and write the next tokens of every answer.

        Raises:
            MGMError: the device has too little memory; all answers end with that.
        """
        try:
            if not self.prompts_first:
                self._read()
            elif len(self.writing) <= self.rows // 2:
                # The last few rows would be read for alone, and take nearly as long as many.
                while self.rows - len(self.writing) > self.rows // 8 and self._read():
                    pass
            self._write()
        except torch.OutOfMemoryError as error:
            together = len(self.writing) + len(self.reader.reading)
            fault = GenerationError(
                f"the device has too little memory for {together} answers at once "
                f"({one_line(error)[:200]}); ask for fewer, or shorter ones"
            )
            self.end(fault)
            raise fault from error
        except BaseException as error:
            self.end(GenerationError(f"the model failed: {one_line(error)[:300]}"))
            raise

    def end(self, fault: MGMError) -> None:
        """End all answers with a fault."""
        for generation in (*self.waiting, *self.writing, *self.reader.reading):
            generation.fail(fault)
        self.waiting.clear()
        self.writing.clear()
        self.reader.clear()
        self._keys = self._rows_of_none()

    def _rows_of_none(self) -> Rows:
        return Rows(self.model.config.text_config.num_hidden_layers)

    def _read(self) -> bool:
        """Read a step's worth of prompts; whether there was anything to read that had room."""
        self._leave()
        try:
            read = self.reader.step(self.waiting, self._keys, self._has_room)
        except Exception as error:
            if is_device_failure(error):
                raise
            self._prefill_failed(error)
            return True
        if read is not None:
            generations, logits = read
            self.writing += generations
            self._prefilled += len(generations)
            self._push(logits.unsqueeze(1), generations, [Guess()] * len(generations))
            self.reader.keep()
        return read is not None or bool(self.reader.reading)

    def _prefill_failed(self, error: Exception) -> None:
        """Fail the prompt that an error was raised for; of several, prefill each alone to know.

        Too little memory is an error like others: several prompts took it, or one that is too long.
        """
        suspects = self.reader.reading
        self.reader.clear()
        self._keys.truncate(len(self.writing))
        if not suspects:  # it was raised while prompts that wait were looked at
            suspects = list(self.waiting)
            self.waiting.clear()
        if not suspects:
            raise error
        if len(suspects) == 1 or suspects[0].prefill_alone:
            suspects.pop(0).fail(as_fault(error, "reading a prompt"))
        for generation in reversed(suspects):
            generation.prefill_alone = True
            self.waiting.appendleft(generation)

    def _has_room(self, more: Sequence[Generation], width: int) -> bool:
        """Whether these may join those that are written: every row is as wide as any.

        Args:
            more: answers.
            width: columns that one row takes at least.
        """
        together = [*self.writing, *more]
        if len(together) == 1:
            return True
        widest = max(width, *(len(one.prompt_ids) + one.limit for one in together))
        bytes_needed = len(together) * widest * self._position_bytes
        return len(together) <= self.rows and bytes_needed <= self.row_bytes

    @property
    def _position_bytes(self) -> int:
        """Of one position's keys and values in all layers."""
        text = self.model.config.text_config
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return 2 * text.num_hidden_layers * heads * width * self.model.language_model.dtype.itemsize

    def _write(self) -> None:
        self._leave()
        if not self.writing:
            return
        guesses = self.drafts.worthwhile([self._guess(one) for one in self.writing])
        tokens = [
            [generation.choices[-1].token, *guess.tokens]
            for generation, guess in zip(self.writing, guesses, strict=True)
        ]
        columns = list(self._keys.columns)
        try:
            logits = self.decoder.step(tokens, self._keys)
        except Exception as error:
            if is_device_failure(error):
                raise
            self._keys.columns[:] = columns  # masks hide what the step wrote behind them
            guesses = [Guess()] * len(self.writing)
            logits = self._step_each_alone()
        right = self._push(logits, self.writing, guesses)
        for row, guess in enumerate(guesses):
            self._keys.columns[row] -= len(guess.tokens) - right[row]
        self.drafts.count(guesses, sum(right))
        self._leave()

    def _step_each_alone(self) -> Tensor:
        """(answers, 1, vocabulary) logits of each row read alone; those that raise again fail."""
        tokens = [generation.choices[-1].token for generation in self.writing]
        logits, errors = self.decoder.step_each_alone(tokens, self._keys)
        for row, error in errors.items():
            self.writing[row].fail(as_fault(error, "writing a token"))
        return logits

    def _guess(self, generation: Generation) -> Guess:
        room = generation.limit - len(generation.choices) - 1
        return self.drafts.guess(generation.last(LONGEST), room, generation.stop_ids)

    def _push(
        self, logits: Tensor, generations: list[Generation], guesses: Sequence[Guess]
    ) -> list[int]:
        """Give answers what comes next, and go on as long as that is what was guessed.

        Args:
            logits: (answers, most tokens, vocabulary) after each token that was read.
            generations: the answers.
            guesses: the end of what was read of each.

        Returns:
            How many tokens of each guess were right.
        """
        guessed = [guess.tokens for guess in guesses]
        chosen = [generation.last(LONGEST) for generation in generations]  # at last
        right = [0] * len(generations)
        going = list(range(len(generations)))
        while going:
            places = [right[row] - len(guessed[row]) - 1 for row in going]
            samplers = [generations[row].sampler for row in going]
            choices = choose(logits[going, places, : self.vocabulary], samplers)
            rows, going = going, []
            for row, choice in zip(rows, choices, strict=True):
                if not isinstance(choice, Choice):
                    generations[row].fail(as_fault(choice, "choosing a token"))
                    continue
                chosen[row].append(choice.token)
                if generations[row].finish_reason is None:
                    generations[row].push(choice)
                if generations[row].finish_reason is not None or right[row] == len(guessed[row]):
                    continue
                if guessed[row][right[row]] == choice.token:
                    right[row] += 1
                    going.append(row)
        for row, generation in enumerate(generations):
            if generation.fault is None:
                self.drafts.learn(chosen[row], right[row] + 1)
                generation.tell()
        return right

    def _leave(self) -> None:
        """Give the rows of answers that have ended to others; what they hold may come again."""
        for row in reversed(range(len(self.writing))):
            generation = self.writing[row]
            if generation.finish_reason is None:
                continue
            if generation.fault is not None:
                self._keys.erase(row)
            elif self.keeps_answers:
                self._keep_answer(row)
            self._keys.remove(row)
            self.writing[row] = self.writing[-1]
            self.writing.pop()
            if not self.writing:  # or rows would stay as wide as the longest ever was
                self._keys.clear(self.row_bytes // 8)

    def _keep_answer(self, row: int) -> None:
        """Put the keys and values of a row into the cache of prefixes."""
        generation = self.writing[row]
        read = self._keys.columns[row] - len(generation.names)
        written = np.array(generation.tokens[:read], dtype=np.int64)
        names = np.concatenate([generation.names, written])
        if len(names) == self._keys.columns[row]:
            dtype = self.model.language_model.dtype
            self.prefixes.put(names, dtype, partial(self._keys.copy, row))

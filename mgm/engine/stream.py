"""Text streams: the output of one sequence while it is generated."""

import sys
from collections.abc import Iterator
from functools import partial

from mgm.engine.core.request import Answer
from mgm.engine.core.sequence import Sequence
from mgm.engine.engine_core import EngineCore


class Stream(Iterator[str]):
    """Iterator over an answer's text in chunks; threads may read several streams concurrently.

    Args:
        core: runs the sequence.
        sequence: the sequence whose output is streamed.
    """

    def __init__(self, core: EngineCore, sequence: Sequence) -> None:
        self._core = core
        self._sequence = sequence

    def __next__(self) -> str:
        while True:
            with self._core.step_lock:
                # Another thread may have run a step meanwhile, and a step runs all sequences.
                text = self._sequence.pop_text()
                if text:
                    return text
                if self.ended:
                    raise StopIteration
                self._core.step()

    def wait(self) -> Answer:
        """Wait for the complete answer.

        Raises:
            MGMError: generation failed.
        """
        with self._core.step_lock:
            while not self.ended:
                self._core.step()
        return self.answer

    def close(self) -> None:
        """Stop generating; text that was held back can still be read."""
        self._core.run(partial(self._core.cancel, self._sequence))

    def __del__(self) -> None:
        if self._sequence.finish_reason is None and not sys.is_finalizing():
            self._core.run_soon(partial(self._core.cancel, self._sequence))

    @property
    def answer(self) -> Answer:
        """The answer so far."""
        return self._sequence.answer()

    @property
    def ended(self) -> bool:
        """Whether the answer is complete.

        Raises:
            MGMError: generation failed.
        """
        if self._sequence.error is not None:
            raise self._sequence.error
        return self._sequence.finish_reason is not None

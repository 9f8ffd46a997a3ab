"""Engine core: the scheduler, stepped by its callers or by an engine thread."""

from collections.abc import Callable
from functools import partial
from threading import Condition

from mgm.engine.core.sequence import Sequence
from mgm.engine.engine_thread import EngineThread, Result
from mgm.engine.scheduler.scheduler import Scheduler


class EngineCore:
    """Serialises all use of the scheduler and of the model; thread-safe.

    Args:
        scheduler: scheduler of all sequences.

    Attributes:
        scheduler: scheduler of all sequences.
        step_lock: held during a step and any other use of the scheduler.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.step_lock = Condition()
        self._thread: EngineThread | None = None

    def start(self) -> None:
        """Start the engine thread, unless it runs."""
        if self._thread is None:
            self._thread = EngineThread(self.scheduler, self.step_lock)

    def stop(self) -> bool:
        """Stop the engine thread; all sequences fail. Returns whether there was one."""
        if self._thread is None:
            return False
        self._thread.stop()
        self._thread = None
        return True

    def run(self, call: Callable[[], Result]) -> Result:
        """Run a call that uses the model, in the engine thread if there is one; returns its result.

        Raises:
            MGMError: the engine is being stopped.
        """
        return call() if self._thread is None else self._thread.submit(call).result()

    def run_soon(self, call: Callable[[], None]) -> None:
        """Run a call that uses the model, without waiting for it if there is an engine thread.

        Raises:
            MGMError: the engine is being stopped.
        """
        if self._thread is None:
            call()
        else:
            self._thread.submit(call)

    def step(self) -> None:
        """Run a scheduler step, or wait for the next one of the engine thread."""
        with self.step_lock:
            if self._thread is None:
                self.scheduler.step()
            else:
                self.step_lock.wait()

    def add(self, sequence: Sequence, index: int = 0) -> None:
        """Put a sequence into the waiting queue, see `Scheduler.add`."""
        self.run_soon(partial(self._add, sequence, index))

    def _add(self, sequence: Sequence, index: int) -> None:
        with self.step_lock:
            self.scheduler.add(sequence, index)

    def cancel(self, sequence: Sequence) -> None:
        """Cancel a sequence, which keeps its output so far."""
        with self.step_lock:
            self.scheduler.cancel(sequence)

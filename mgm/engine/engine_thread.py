"""Engine thread: runs scheduler steps and executes submitted calls between them.

torch keeps a pool of OpenMP threads for every thread that computes, and several pools fight for the
same cores. So one thread computes, and others submit calls to it.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from threading import Condition, Thread
from typing import Any, TypeVar

from mgm.engine.scheduler.scheduler import Scheduler
from mgm.errors import MGMError

MAX_CALL_SECONDS = 0.05  # maximum time of submitted calls between two steps

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


class EngineThread:
    """Steps a scheduler while it has sequences, and runs submitted calls between two steps.

    Args:
        scheduler: scheduler, used only by this thread from now on.
        step_lock: held during a step; notified after each.
    """

    def __init__(self, scheduler: Scheduler, step_lock: Condition) -> None:
        self._scheduler = scheduler
        self._step_lock = step_lock
        # Not `step_lock`: submitting a call would wait for the end of a step.
        self._submitted = Condition()
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._stopped = False
        self._thread = Thread(target=self._run, daemon=True, name="engine")
        self._thread.start()

    def submit(self, call: Callable[[], Result]) -> Future[Result]:
        """Run a call between two steps; returns at once.

        Raises:
            MGMError: the thread was stopped.
        """
        future: Future[Result] = Future()
        with self._submitted:
            if self._stopped:
                raise MGMError("the engine was stopped")
            self._calls.append((future, call))
            self._submitted.notify()
        return future

    def stop(self) -> None:
        """End the thread; calls and sequences that are not finished fail."""
        with self._submitted:
            self._stopped = True
            self._submitted.notify()
        self._thread.join()

    def _run(self) -> None:
        while self._wait_for_work():
            start_time = time.monotonic()
            while self._calls:
                self._execute(*self._calls.popleft())
                if time.monotonic() - start_time > MAX_CALL_SECONDS:
                    break
            with self._step_lock:
                self._step()
                self._step_lock.notify_all()
        error = MGMError("the engine was stopped")
        for future, _ in self._calls:
            future.set_exception(error)
        with self._step_lock:
            self._scheduler.fail_all(error)
            self._step_lock.notify_all()

    def _wait_for_work(self) -> bool:
        """Wait for a call or a sequence; False: the thread was stopped."""
        with self._submitted:
            while not (self._calls or self._scheduler.busy or self._stopped):
                self._submitted.wait()
            return not self._stopped

    def _execute(self, future: Future[Any], call: Callable[[], Any]) -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001  raised where the result is awaited
            future.set_exception(error)

    def _step(self) -> None:
        if not self._scheduler.busy:
            return
        try:
            self._scheduler.step()
        except MGMError as error:  # all sequences failed with this error
            logger.warning("%s", error)
        except Exception:
            logger.exception("a step failed; its sequences have ended")

"""One thread that does all of an engine's computing, for servers that many ask at once.

torch keeps a team of threads for every thread that computes: several of them fight for the same
cores. Here one computes, and others wait for what they asked for.
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

PATIENCE = 0.05  # seconds of other work after which the next step comes first

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


class Loop:
    """Steps a scheduler while there is anything to write, and does other work between two steps.

    Args:
        scheduler: writes answers; from now on only this thread may use it.
        turn: held during a step; its waiters are told of every step.
    """

    def __init__(self, scheduler: Scheduler, turn: Condition) -> None:
        self._scheduler = scheduler
        self._turn = turn
        # Not `turn`: whoever asks for something would wait for a step to end.
        self._asked = Condition()
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._stopped = False
        self._thread = Thread(target=self._work, daemon=True, name="engine")
        self._thread.start()

    def submit(self, call: Callable[[], Result]) -> Future[Result]:
        """Have the thread make a call between two steps; nobody waits.

        Raises:
            MGMError: the loop was stopped.
        """
        done: Future[Result] = Future()
        with self._asked:
            if self._stopped:
                raise MGMError("the engine was stopped")
            self._calls.append((done, call))
            self._asked.notify()
        return done

    def stop(self) -> None:
        """Do no more; what is not done yet fails."""
        with self._asked:
            self._stopped = True
            self._asked.notify()
        self._thread.join()

    def _work(self) -> None:
        while self._has_work():
            begun = time.monotonic()
            while self._calls:
                self._make(*self._calls.popleft())
                if time.monotonic() - begun > PATIENCE:
                    break
            with self._turn:
                self._step()
                self._turn.notify_all()
        fault = MGMError("the engine was stopped")
        for done, _ in self._calls:
            done.set_exception(fault)
        with self._turn:
            self._scheduler.end(fault)
            self._turn.notify_all()

    def _has_work(self) -> bool:
        """Wait for something to do; nothing comes once the loop was stopped."""
        with self._asked:
            while not (self._calls or self._scheduler.busy or self._stopped):
                self._asked.wait()
            return not self._stopped

    def _make(self, done: Future[Any], call: Callable[[], Any]) -> None:
        try:
            done.set_result(call())
        except BaseException as error:  # noqa: BLE001  whoever asked gets it
            done.set_exception(error)

    def _step(self) -> None:
        if not self._scheduler.busy:
            return
        try:
            self._scheduler.step()
        except MGMError as error:  # the answers have ended with it
            logger.warning("%s", error)
        except Exception:
            logger.exception("a step failed; its answers have ended")

"""One thread that does all of an engine's computing, for servers that many ask at once.

torch keeps a team of threads for every thread that computes: several of them fight for the same
cores. Here one computes, and others wait for what they asked for.
"""

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from threading import Condition, Thread
from typing import Any, TypeVar

from mgm.engine.scheduler import Scheduler
from mgm.errors import MGMError

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


class Loop:
    """Steps a scheduler while there is anything to write, and does other work between two steps.

    Args:
        scheduler: writes answers.
        turn: held while it is used; its waiters are told of every step.
    """

    def __init__(self, scheduler: Scheduler, turn: Condition) -> None:
        self._scheduler = scheduler
        self._turn = turn
        self._tasks: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._stopped = False
        self._thread = Thread(target=self._work, daemon=True, name="engine")
        self._thread.start()

    def run(self, call: Callable[[], Result]) -> Result:
        """What a call returns that the thread makes between two steps.

        Raises:
            MGMError: the loop was stopped.
        """
        done: Future[Result] = Future()
        with self._turn:
            if self._stopped:
                raise MGMError("the engine was stopped")
            self._tasks.append((done, call))
            self._turn.notify_all()
        return done.result()

    def stop(self) -> None:
        """Do no more; what is not done yet fails."""
        with self._turn:
            self._stopped = True
            self._turn.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._turn:
                while not (self._tasks or self._scheduler.busy or self._stopped):
                    self._turn.wait()
                if self._stopped:
                    break
                task = self._tasks.popleft() if self._tasks else None
            if task is not None:
                self._do(*task)
            with self._turn:
                self._step()
                self._turn.notify_all()
        fault = MGMError("the engine was stopped")
        with self._turn:
            for done, _ in self._tasks:
                done.set_exception(fault)
            self._scheduler.end(fault)
            self._turn.notify_all()

    def _do(self, done: Future[Any], call: Callable[[], Any]) -> None:
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

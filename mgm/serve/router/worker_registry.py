"""Which workers there are, and which of them gets the next request."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mgm.errors import MGMError
from mgm.serve.http.wire import EXPIRATION

LOTTERY, SHORTEST_QUEUE = "lottery", "shortest_queue"
METHODS = (LOTTERY, SHORTEST_QUEUE)


@dataclass
class Known:
    """What is known of a worker.

    Attributes:
        names: of its models.
        drawers: names of those that draw images and do not chat.
        speed: compared with others.
        queue_length: requests that it has.
        heart_beats: whether it has to tell that it lives.
        seen: when it told so last.
    """

    names: tuple[str, ...]
    drawers: tuple[str, ...]
    speed: float
    queue_length: float
    heart_beats: bool
    seen: float

    @classmethod
    def of(cls, status: Any, heart_beats: bool) -> "Known":
        """From what a worker says of itself.

        Raises:
            MGMError: it says something else.
        """
        try:
            names, drawers = (
                tuple(str(name) for name in found)
                for found in (status["model_names"], status.get("drawers", ()))
            )
            speed, length = float(status["speed"]), float(status["queue_length"])
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise MGMError("a worker's status has model_names, speed and queue_length") from error
        if not names or not speed > 0:
            raise MGMError("a worker's status names no model, or a speed that is not above 0")
        return cls(names, drawers, speed, length, heart_beats, time.monotonic())


@dataclass
class Dispatcher:
    """Knows workers by their addresses.

    Attributes:
        method: `LOTTERY` draws by speed, `SHORTEST_QUEUE` takes who has least to do.
        expiration: seconds after which a worker that told nothing is forgotten.
    """

    method: str = SHORTEST_QUEUE
    expiration: float = EXPIRATION
    workers: dict[str, Known] = field(default_factory=dict)

    def register(self, address: str, status: Any, heart_beats: bool) -> None:
        """Learn of a worker, or anew."""
        self.workers[address] = Known.of(status, heart_beats)

    def forget(self, address: str) -> None:
        """Know it no more."""
        self.workers.pop(address, None)

    def beat(self, address: str, queue_length: float) -> bool:
        """A worker tells that it lives; returns whether it is known."""
        known = self.workers.get(address)
        if known is None:
            return False
        known.queue_length, known.seen = queue_length, time.monotonic()
        return True

    def expire(self) -> None:
        """Forget who told nothing for too long."""
        oldest = time.monotonic() - self.expiration
        for address, known in list(self.workers.items()):
            if known.heart_beats and known.seen < oldest:
                self.forget(address)

    def alive(self, address: str) -> bool:
        """Whether it is known and not expired."""
        self.expire()
        return address in self.workers

    @property
    def models(self) -> list[str]:
        """Names of all models that chat."""
        self.expire()
        return sorted({name for known in self.workers.values() for name in known.names})

    @property
    def drawers(self) -> list[str]:
        """Names of all models that draw."""
        self.expire()
        return sorted({name for known in self.workers.values() for name in known.drawers})

    def choose(self, model: str, but: Sequence[str] = ()) -> str | None:
        """The address of a worker for a model, which counts as having one request more.

        Args:
            model: its name.
            but: addresses that were tried.
        """
        self.expire()
        fit = {
            address: known
            for address, known in self.workers.items()
            if model in (*known.names, *known.drawers) and address not in but
        }
        if not fit:
            return None
        if self.method == LOTTERY:
            chosen = random.choices(list(fit), [known.speed for known in fit.values()])[0]
        else:
            chosen = min(fit, key=lambda address: fit[address].queue_length / fit[address].speed)
        fit[chosen].queue_length += 1
        return chosen

    def done(self, address: str) -> None:
        """A request of a worker has ended."""
        known = self.workers.get(address)
        if known is not None:
            known.queue_length = max(0, known.queue_length - 1)

    def status(self) -> dict[str, Any]:
        """What a controller above is told, as if this were a worker."""
        self.expire()
        known = self.workers.values()
        return {
            "model_names": self.models,
            "speed": sum(one.speed for one in known) or 1,
            "queue_length": sum(one.queue_length for one in known),
        } | ({"drawers": self.drawers} if self.drawers else {})

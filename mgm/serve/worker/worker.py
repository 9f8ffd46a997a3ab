"""A model that answers requests: admission, metrics, tools, answers piece by piece."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
from anyio import CapacityLimiter, to_thread

from mgm.data.images.limits import NETWORK_LIMITS
from mgm.engine.core import request as engine_request
from mgm.engine.core.request import Answer
from mgm.engine.core.sequence import Piece
from mgm.engine.engine import Engine, Stream
from mgm.errors import MGMError
from mgm.serve.http.concurrency_limit import Admission, FullError
from mgm.serve.http.openai_requests import Asked
from mgm.serve.tools.image_generation import drawn_text
from mgm.serve.tools.tools import Companions
from mgm.serve.worker.image_fetcher import NetworkImages
from mgm.serve.worker.metrics import WorkerMetrics


@dataclass(frozen=True)
class Limits:
    """What one request may take.

    Attributes:
        concurrency: answers that are written at once.
        queue: requests that wait, at most.
        tokens: of an answer.
        seconds: of an answer; None: there is no limit.
    """

    concurrency: int = 16
    queue: int = 64
    tokens: int = 4096
    seconds: float | None = 600.0


@dataclass
class Worker:
    """A model that answers.

    Attributes:
        engine: the model.
        names: what it is called; the first is its own.
        limits: of requests.
        images: fetches the images of requests.
        companions: read texts in images, and draw.
    """

    engine: Engine
    names: tuple[str, ...]
    limits: Limits = field(default_factory=Limits)
    images: NetworkImages = field(default_factory=NetworkImages)
    companions: Companions = field(default_factory=Companions)

    def __post_init__(self) -> None:
        self.engine.scheduler.rows = self.limits.concurrency
        self.engine.image_limits = NETWORK_LIMITS
        self.companions.open_image = self.engine.open_image
        self.engine.start()
        self.admission = Admission(self.limits.concurrency, self.limits.queue)
        self.metrics = WorkerMetrics(self.engine, self.admission)
        self.created = int(time.time())
        # As many threads as requests may be here, or one would wait for a thread.
        self._threads = CapacityLimiter(self.limits.concurrency + 8)

    async def in_thread(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """What takes long, beside the loop that serves all."""
        return await to_thread.run_sync(call, *arguments, limiter=self._threads)

    @asynccontextmanager
    async def answering(self, endpoint: str) -> AsyncGenerator[None]:
        """A place for a request, whose end is counted."""
        outcome, begun = "error", time.perf_counter()
        try:
            async with self.admission.place():
                yield
            outcome = "ok"
        except FullError:
            outcome = "full"
            raise
        except MGMError:
            outcome = "refused"
            raise
        except (GeneratorExit, anyio.get_cancelled_exc_class()):
            outcome = "cancelled"
            raise
        finally:
            self.metrics.requests.labels(endpoint, outcome).inc()
            self.metrics.duration.observe(time.perf_counter() - begun)

    async def pieces(self, request: engine_request.Request, begun: float) -> AsyncGenerator[Piece]:
        """An answer, piece by piece; where the reader leaves, it is cancelled."""
        limited = replace(request, max_seconds=self.limits.seconds)
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[Piece]()

        def told(piece: Piece) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, piece)

        stream: Stream = await self.in_thread(self.engine.listen, limited, told)
        begins, ended = True, False
        try:
            while not ended:
                piece = await queue.get()
                while not queue.empty():  # who is slow to send sends more at once
                    piece = piece + queue.get_nowait()
                if begins and piece.text:
                    self.metrics.first_token.observe(time.perf_counter() - begun)
                    begins = False
                ended = piece.answer is not None or piece.fault is not None
                if piece.fault is not None:
                    raise piece.fault
                if piece.answer is not None:
                    self.metrics.count(piece.answer)
                yield piece
        finally:
            if not ended:
                with anyio.CancelScope(shield=True):
                    await self.in_thread(stream.close)

    async def prepared(self, asked: Asked) -> Asked:
        """A body whose questions have the help, and ask for the drawing, that it wants.

        Raises:
            MGMError: nobody reads texts or draws here.
        """
        if not (asked.gen_image or asked.use_ocr):
            return asked
        images = asked.requests[0].images
        suffix = await self.in_thread(
            self.companions.suffix, images, asked.gen_image, asked.use_ocr
        )
        requests = (replace(one, prompt=one.prompt + suffix) for one in asked.requests)
        return replace(asked, requests=tuple(requests))

    async def drawn(self, answer: Answer, seed: int | None) -> bytes | None:
        """A PNG file of what an answer asks to draw, if it does."""
        text = drawn_text(answer.text)
        return None if text is None else await self.in_thread(self.companions.draw, text, seed)

    @property
    def drawers(self) -> list[str]:
        """Names of what draws here."""
        return [self.companions.drawer_name] if self.companions.draws else []

    def status(self) -> dict[str, Any]:
        """What published controllers ask for, and what draws."""
        return {
            "model_names": list(self.names),
            "speed": 1,
            "queue_length": self.admission.length,
        } | ({"drawers": self.drawers} if self.drawers else {})

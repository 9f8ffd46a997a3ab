"""A model that answers requests: queue, images, tools, metrics, answers piece by piece."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import anyio

from mgm.data.images.limits import NETWORK_LIMITS
from mgm.engine.core import request as engine_request
from mgm.engine.core.errors import GenerationError
from mgm.engine.core.request import Answer
from mgm.engine.core.sequence import Piece
from mgm.engine.engine import Engine, Stream
from mgm.errors import MGMError
from mgm.serve.http.concurrency_limit import ConcurrencyLimiter, QueueFullError, Slot
from mgm.serve.openai.requests import ParsedRequest
from mgm.serve.tools.image_generation import image_prompt
from mgm.serve.tools.tools import WorkerTools
from mgm.serve.worker.image_fetcher import ImageFetcher
from mgm.serve.worker.metrics import WorkerMetrics

SPARE_THREADS = 8  # beside one for each slot: some still work for clients that have left
CLOSE_THREADS = 4  # that wait for the engine to end sequences which nobody reads


@dataclass(frozen=True)
class Limits:
    """What one request may take.

    Attributes:
        concurrency: requests that are answered at once.
        queue: max requests that wait.
        tokens: max of an answer.
        seconds: max of an answer; None: there is no limit.
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
    images: ImageFetcher = field(default_factory=ImageFetcher)
    companions: WorkerTools = field(default_factory=WorkerTools)

    def __post_init__(self) -> None:
        self.engine.scheduler.rows = self.limits.concurrency
        self.engine.image_limits = NETWORK_LIMITS
        self.companions.open_image = self.engine.open_image
        self.engine.start()
        self.admission = ConcurrencyLimiter(self.limits.concurrency, self.limits.queue)
        # Images are generated one at a time, and in a queue of their own: they take minutes.
        self.drawing = ConcurrencyLimiter(1, self.limits.queue)
        self.metrics = WorkerMetrics(self.engine, self.admission)
        self.created = int(time.time())
        # Each kind of work has threads of its own, so that none waits for another's.
        self._threads = ThreadPoolExecutor(self.limits.concurrency + SPARE_THREADS, "request")
        self._closing = ThreadPoolExecutor(CLOSE_THREADS, "close")
        self._grammar = ThreadPoolExecutor(1, "grammar")
        self._ocr = ThreadPoolExecutor(1, "ocr")
        self._image_generation = ThreadPoolExecutor(1, "image-generation")

    async def in_thread(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """What a call returns that takes long, beside the event loop.

        Where the caller is cancelled the call goes on without it, and keeps its thread.
        """
        return await _run(self._threads, call, *arguments)

    @asynccontextmanager
    async def request_slot(
        self, endpoint: str, limiter: ConcurrencyLimiter | None = None
    ) -> AsyncGenerator[Slot]:
        """The place of a request in the queue, until it is answered; its outcome is counted.

        Args:
            endpoint: a label of metrics.
            limiter: whose queue; None: that of the model.

        Raises:
            QueueFullError: too many requests wait, or the server is shutting down.
        """
        outcome, started = "error", time.perf_counter()
        try:
            if self.admission.closed:
                raise QueueFullError("this server is shutting down; use another one")
            async with (limiter or self.admission).queue() as slot:
                yield slot
            outcome = "ok"
        except QueueFullError:
            outcome = "full"
            raise
        except GenerationError:
            raise  # an error of the server
        except MGMError:
            outcome = "refused"
            raise
        except (GeneratorExit, anyio.get_cancelled_exc_class()):
            outcome = "cancelled"
            raise
        finally:
            self.metrics.requests.labels(endpoint, outcome).inc()
            self.metrics.duration.observe(time.perf_counter() - started)

    async def prepare(self, parsed: ParsedRequest) -> list[engine_request.Request]:
        """Requests to the engine, with their images and with what tools add to the question.

        Raises:
            MGMError: a grammar cannot be used, an image cannot be fetched, or a tool that is asked
                for is not here.
            QueueFullError: too many requests download images.
        """
        form = parsed.settings.get("structured_output")
        if form is not None and not form.is_cheap:
            # Here, those that wait take no slot and no thread, and leave with their clients.
            await _run(self._grammar, self.engine.compile_grammar, form)
        images = await self.images.fetch_all(parsed.sources)
        suffix = ""
        if parsed.gen_image or parsed.use_ocr:
            wants = (images, parsed.gen_image, parsed.use_ocr)
            suffix = await _run(self._ocr, self.companions.suffix, *wants)
        return parsed.requests(images, suffix)

    async def pieces(
        self, requests: Sequence[engine_request.Request], started: float, slot: Slot
    ) -> AsyncGenerator[tuple[int, Piece]]:
        """All answers at once, piece by piece as they are written, each with its request's index.

        Whoever stops reading cancels what is not written yet; so does an error of one of them,
        which is raised. The slot is released when the engine has finished, however slow the
        reader is.

        Args:
            requests: of one client; their prompts are prepared one after the other.
            started: `time.perf_counter()` when the client's request came.
            slot: that was acquired for so many sequences.

        Raises:
            MGMError: an image or a prompt cannot be read, or the model fails.
        """
        loop = asyncio.get_running_loop()
        queue = asyncio.Queue[tuple[int, Piece]]()

        def receive(index: int, piece: Piece) -> None:
            if _is_last(piece):
                slot.sequence_finished()
            queue.put_nowait((index, piece))

        def listener(index: int, piece: Piece) -> None:
            # The engine's thread calls this between two tokens of everybody: it must not raise.
            with suppress(RuntimeError):  # the event loop was closed: the server has ended
                loop.call_soon_threadsafe(receive, index, piece)

        streams: list[Stream] = await self.in_thread(self._listen, requests, listener)
        unfinished, first = set(range(len(requests))), True
        try:
            while unfinished:
                arrived = [await queue.get()]
                while not queue.empty():
                    arrived.append(queue.get_nowait())
                for index, piece in _joined(arrived):
                    if first and piece.text:
                        self.metrics.first_token.observe(time.perf_counter() - started)
                        first = False
                    if _is_last(piece):
                        unfinished.discard(index)
                    if piece.fault is not None:
                        raise piece.fault
                    if piece.answer is not None:
                        self.metrics.count(piece.answer)
                    yield index, piece
        finally:
            if unfinished:
                with anyio.CancelScope(shield=True):
                    await _run(self._closing, _close, [streams[index] for index in unfinished])

    def _listen(
        self,
        requests: Sequence[engine_request.Request],
        listener: Callable[[int, Piece], None],
    ) -> list[Stream]:
        limited = [replace(request, max_seconds=self.limits.seconds) for request in requests]
        return self.engine.listen_all(limited, listener)

    async def draw(
        self, text: str, seed: int | None = None, size: tuple[int, int] | None = None
    ) -> bytes:
        """A PNG file of a text, drawn by whoever holds a slot of `drawing`.

        Raises:
            MGMError: no images are generated here.
        """
        return await _run(self._image_generation, self.companions.draw, text, seed, size)

    async def drawn(self, answer: Answer, seed: int | None) -> bytes | None:
        """A PNG file of what an answer asks to draw, if it does.

        Raises:
            QueueFullError: too many wait for images.
        """
        text = image_prompt(answer.text)
        if text is None:
            return None
        async with self.drawing.queue() as slot:
            await slot.acquire()
            return await self.draw(text, seed)

    @property
    def drawers(self) -> list[str]:
        """Names of what draws here."""
        return [self.companions.image_model] if self.companions.draws else []

    def status(self) -> dict[str, Any]:
        """What published controllers ask for, and what draws."""
        return {
            "model_names": list(self.names),
            "speed": 1,
            "queue_length": self.admission.length + self.drawing.length,
        } | ({"drawers": self.drawers} if self.drawers else {})


async def _run(threads: Executor, call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call in a thread returns; where nobody waits any more it is left alone."""
    return await asyncio.wrap_future(threads.submit(call, *arguments))


def _is_last(piece: Piece) -> bool:
    return piece.answer is not None or piece.fault is not None


def _joined(pieces: Sequence[tuple[int, Piece]]) -> list[tuple[int, Piece]]:
    """Pieces that came together, those of each answer as one: slow readers get fewer."""
    joined: dict[int, Piece] = {}
    for index, piece in pieces:
        joined[index] = joined[index] + piece if index in joined else piece
    return list(joined.items())


def _close(streams: Sequence[Stream]) -> None:
    for stream in streams:
        stream.close()

"""Worker: an engine behind a request queue, with image downloads, tools and metrics."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import anyio

from mgm.data.images.limits import NETWORK_LIMITS
from mgm.engine.core import request as engine_request
from mgm.engine.core.errors import GenerationError
from mgm.engine.core.request import Answer
from mgm.engine.core.sequence import Chunk
from mgm.engine.engine import Engine, Stream
from mgm.errors import MGMError
from mgm.serve.http.concurrency_limit import ConcurrencyLimiter, QueueFullError, Slot
from mgm.serve.openai.requests import ParsedRequest
from mgm.serve.tools.image_generation import image_prompt
from mgm.serve.tools.tools import WorkerTools
from mgm.serve.worker.image_fetcher import ImageFetcher
from mgm.serve.worker.metrics import WorkerMetrics

SPARE_THREADS = 8  # beyond one per slot: some are still busy for clients that disconnected
CLOSE_THREADS = 4  # threads that cancel sequences of disconnected clients in the engine


@dataclass(frozen=True)
class Limits:
    """Limits on requests.

    Attributes:
        max_concurrency: requests that run at the same time.
        max_queue: requests that wait for a slot; more get HTTP 429.
        max_tokens: tokens per response.
        request_timeout: seconds per response; None: no limit.
    """

    max_concurrency: int = 16
    max_queue: int = 64
    max_tokens: int = 4096
    request_timeout: float | None = 600.0


@dataclass
class Worker:
    """Serves one model: the state behind the endpoints of a worker.

    Attributes:
        engine: generates the responses.
        names: the model's names in the API.
        limits: limits on requests.
        images: downloads and decodes the images of requests.
        tools: OCR and image generation.
    """

    engine: Engine
    names: tuple[str, ...]
    limits: Limits = field(default_factory=Limits)
    images: ImageFetcher = field(default_factory=ImageFetcher)
    tools: WorkerTools = field(default_factory=WorkerTools)

    def __post_init__(self) -> None:
        self.engine.images.limits = NETWORK_LIMITS
        self.tools.open_image = self.engine.images.open
        self.engine.start()
        self.limiter = ConcurrencyLimiter(self.limits.max_concurrency, self.limits.max_queue)
        # Images take minutes: they are generated one at a time, with a queue of their own.
        self.image_limiter = ConcurrencyLimiter(1, self.limits.max_queue)
        self.metrics = WorkerMetrics(self.engine, self.limiter)
        self.created = int(time.time())
        # One pool per kind of work, so that none waits for another.
        self._threads = ThreadPoolExecutor(self.limits.max_concurrency + SPARE_THREADS, "request")
        self._close_threads = ThreadPoolExecutor(CLOSE_THREADS, "close")
        self._grammar_thread = ThreadPoolExecutor(1, "grammar")
        self._ocr_thread = ThreadPoolExecutor(1, "ocr")
        self._image_thread = ThreadPoolExecutor(1, "image-generation")

    async def in_thread(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Run a blocking call in a thread; it continues if the caller is cancelled."""
        return await _run(self._threads, call, *arguments)

    @asynccontextmanager
    async def request_slot(
        self, endpoint: str, limiter: ConcurrencyLimiter | None = None
    ) -> AsyncGenerator[Slot]:
        """Queue a request; yields its slot, still to be acquired, and counts the outcome.

        Args:
            endpoint: label of the metrics.
            limiter: its queue and slots are used; None: those of the language model.

        Raises:
            QueueFullError: the queue is full, or the server is shutting down.
        """
        outcome, start_time = "error", time.perf_counter()
        try:
            if self.limiter.closed:
                raise QueueFullError("this server is shutting down; use another one")
            async with (limiter or self.limiter).queue() as slot:
                yield slot
            outcome = "ok"
        except QueueFullError:
            outcome = "full"
            raise
        except GenerationError:
            raise  # a server error
        except MGMError:
            outcome = "refused"
            raise
        except (GeneratorExit, anyio.get_cancelled_exc_class()):
            outcome = "cancelled"
            raise
        finally:
            self.metrics.requests.labels(endpoint, outcome).inc()
            self.metrics.request_latency.observe(time.perf_counter() - start_time)

    async def prepare(self, parsed: ParsedRequest) -> list[engine_request.Request]:
        """Engine requests, one per choice: images downloaded, OCR texts added to the prompt.

        Raises:
            MGMError: the grammar is invalid, an image cannot be fetched, or a tool is missing.
            QueueFullError: too many requests are downloading images.
        """
        structured_output = parsed.settings.get("structured_output")
        if structured_output is not None and not structured_output.is_cheap:
            # Compiled here, a request holds neither a slot nor a thread, and can be cancelled.
            await _run(self._grammar_thread, self.engine.compile_grammar, structured_output)
        images = await self.images.fetch_all(parsed.sources)
        suffix = ""
        if parsed.gen_image or parsed.use_ocr:
            suffix = await _run(
                self._ocr_thread,
                self.tools.prompt_suffix,
                images,
                parsed.gen_image,
                parsed.use_ocr,
            )
        return parsed.requests(images, suffix)

    async def stream(
        self, requests: Sequence[engine_request.Request], start_time: float, slot: Slot
    ) -> AsyncGenerator[tuple[int, Chunk]]:
        """Chunks of all sequences as they are generated, each with the index of its request.

        Closing the generator cancels the unfinished sequences; so does an error of one of them,
        which is raised. The slot is released when the engine has finished, however slowly the
        client reads.

        Args:
            requests: requests of one client.
            start_time: `time.perf_counter()` at the arrival of the client's request, for TTFT.
            slot: acquired for as many sequences.

        Raises:
            MGMError: an image or a prompt is invalid, or generation fails.
        """
        loop = asyncio.get_running_loop()
        queue = asyncio.Queue[tuple[int, Chunk]]()

        def receive(index: int, chunk: Chunk) -> None:
            if _is_last(chunk):
                slot.sequence_finished()
            queue.put_nowait((index, chunk))

        def listener(index: int, chunk: Chunk) -> None:
            # Called by the engine thread between two decode steps: it must not raise.
            with suppress(RuntimeError):  # the event loop is closed: the server has stopped
                loop.call_soon_threadsafe(receive, index, chunk)

        streams: list[Stream] = await self.in_thread(self._listen, requests, listener)
        unfinished, waits_for_text = set(range(len(requests))), True
        try:
            while unfinished:
                for index, chunk in _merge_by_sequence(await _drain(queue)):
                    if waits_for_text and chunk.text:
                        waits_for_text = False
                        self.metrics.time_to_first_token.observe(time.perf_counter() - start_time)
                    if _is_last(chunk):
                        unfinished.discard(index)
                        self._check_finished(chunk)
                    yield index, chunk
        finally:
            if unfinished:
                with anyio.CancelScope(shield=True):
                    cancelled = [streams[index] for index in unfinished]
                    await _run(self._close_threads, _close, cancelled)

    async def complete(
        self, requests: Sequence[engine_request.Request], start_time: float, slot: Slot
    ) -> list[Answer]:
        """Generate complete responses; arguments and errors are those of `stream`."""
        answers: dict[int, Answer] = {}
        async with aclosing(self.stream(requests, start_time, slot)) as chunks:
            async for index, chunk in chunks:
                if chunk.answer is not None:
                    answers[index] = chunk.answer
        return [answers[index] for index in range(len(requests))]

    def _listen(
        self,
        requests: Sequence[engine_request.Request],
        listener: Callable[[int, Chunk], None],
    ) -> list[Stream]:
        timeout = self.limits.request_timeout
        limited = [replace(request, max_seconds=timeout) for request in requests]
        return self.engine.subscribe(limited, listener)

    def _check_finished(self, chunk: Chunk) -> None:
        """Count the tokens of a finished sequence; raise the error of a failed one."""
        if chunk.error is not None:
            raise chunk.error
        if chunk.answer is not None:
            self.metrics.count_tokens(chunk.answer)

    async def generate_image(
        self, prompt: str, seed: int | None = None, size: tuple[int, int] | None = None
    ) -> bytes:
        """A PNG file generated from a prompt; the caller holds a slot of `image_limiter`.

        Raises:
            MGMError: the server has no image generation model.
        """
        return await _run(self._image_thread, self.tools.generate_image, prompt, seed, size)

    async def image_of(self, answer: Answer, seed: int | None) -> bytes | None:
        """A PNG file of the image prompt in an answer (`<h>...</h>`); None: it has none.

        Raises:
            QueueFullError: the queue for image generation is full.
        """
        prompt = image_prompt(answer.text)
        if prompt is None:
            return None
        async with self.image_limiter.queue() as slot:
            await slot.acquire()
            return await self.generate_image(prompt, seed)

    @property
    def image_models(self) -> list[str]:
        """Names of the image generation models."""
        return [self.tools.image_model] if self.tools.image_model else []

    def status(self) -> dict[str, Any]:
        """Status for controllers and heartbeats; `drawers` are the image generation models."""
        return {
            "model_names": list(self.names),
            "speed": 1,
            "queue_length": self.limiter.length + self.image_limiter.length,
        } | ({"drawers": self.image_models} if self.image_models else {})


async def _run(threads: Executor, call: Callable[..., Any], *arguments: Any) -> Any:
    """Run a call in a thread pool; returns its result."""
    return await asyncio.wrap_future(threads.submit(call, *arguments))


async def _drain(queue: asyncio.Queue[tuple[int, Chunk]]) -> list[tuple[int, Chunk]]:
    """Wait for an entry of a queue; returns all that are in the queue then."""
    entries = [await queue.get()]
    while not queue.empty():
        entries.append(queue.get_nowait())
    return entries


def _merge_by_sequence(chunks: Sequence[tuple[int, Chunk]]) -> list[tuple[int, Chunk]]:
    """One chunk per sequence: a client that reads slowly gets fewer and larger ones."""
    merged: dict[int, Chunk] = {}
    for index, chunk in chunks:
        merged[index] = merged[index] + chunk if index in merged else chunk
    return list(merged.items())


def _is_last(chunk: Chunk) -> bool:
    return chunk.answer is not None or chunk.error is not None


def _close(streams: Sequence[Stream]) -> None:
    for stream in streams:
        stream.close()

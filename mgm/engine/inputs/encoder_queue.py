"""Queue of images for the vision encoders, which encode images of all requests in batches."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from mgm.engine.core.device_errors import as_request_error
from mgm.engine.inputs.encoder_cache import EncoderCache
from mgm.errors import MGMError, one_line
from mgm.model.modeling_mgm import MGMForConditionalGeneration

ENCODER_BATCH_SIZE = 8  # images that are encoded together


@dataclass(frozen=True)
class _PendingImage:
    """An image that waits to be encoded."""

    key: bytes
    pixels: Tensor
    features: Future[Tensor]


class EncoderQueue:
    """Encodes the images of all threads in batches; thread-safe.

    An image that several threads queue at the same time is encoded once.

    Args:
        model: model with the vision encoders.
        cache: the encoder cache that features are added to.
        run_soon: runs a call that uses the model, now or later, in this thread or another.
    """

    def __init__(
        self,
        model: MGMForConditionalGeneration,
        cache: EncoderCache,
        run_soon: Callable[[Callable[[], None]], Any],
    ) -> None:
        self._model = model
        self._cache = cache
        self._run_soon = run_soon
        self._lock = Lock()
        self._queue: deque[_PendingImage] = deque()
        self._pending: dict[bytes, Future[Tensor]] = {}  # by key: queued, or being encoded

    def encode(self, pixels: Mapping[bytes, Tensor]) -> dict[bytes, Future[Tensor]]:
        """Queue images; returns futures of their features, by key.

        Args:
            pixels: (1, 3, A, A) uint8 input of the model, by key.
        """
        with self._lock:
            before = len(self._queue)
            futures = {key: self._enqueue(key, one) for key, one in pixels.items()}
            new = len(self._queue) - before
        try:
            # Each call encodes the first images of the queue, of any thread: enough calls for all.
            for _ in range(0, new, ENCODER_BATCH_SIZE):
                self._run_soon(self._encode_next_batch)
        except BaseException as error:
            self.fail_waiting(error)  # no call is left that would encode them
            raise
        return futures

    def fail_waiting(self, error: BaseException) -> None:
        """Empty the queue; the futures of its images get the error."""
        self._fail(self._dequeue(len(self._queue)), error)

    def _enqueue(self, key: bytes, pixels: Tensor) -> Future[Tensor]:
        """Queue an image, unless it is queued already; returns the future of its features."""
        if key in self._pending:
            return self._pending[key]
        future: Future[Tensor] = Future()
        cached = self._cache.get(key, count=False)
        if cached is not None:
            future.set_result(cached)
        else:
            self._pending[key] = future
            self._queue.append(_PendingImage(key, pixels, future))
        return future

    def _encode_next_batch(self) -> None:
        self._encode_batch(self._dequeue(ENCODER_BATCH_SIZE))

    def _dequeue(self, max_images: int) -> list[_PendingImage]:
        with self._lock:
            return [self._queue.popleft() for _ in range(min(max_images, len(self._queue)))]

    def _encode_batch(self, batch: Sequence[_PendingImage]) -> None:
        if not batch:  # its images were part of an earlier call's batch
            return
        try:
            self._finish(batch, self._compute_features(torch.cat([one.pixels for one in batch])))
        except Exception as error:  # noqa: BLE001  raised where the features are awaited
            if len(batch) == 1:
                self._fail(batch, error)
                return
            self._encode_one_by_one(batch)
        except BaseException as error:
            self._fail(batch, error)
            raise

    def _encode_one_by_one(self, batch: Sequence[_PendingImage]) -> None:
        """Encode the images of a failed batch one by one, to isolate the image that fails."""
        for index, one in enumerate(batch):
            try:
                self._encode_batch([one])
            except BaseException as error:
                self._fail(batch[index + 1 :], error)
                raise

    @torch.inference_mode()
    def _compute_features(self, pixels: Tensor) -> list[Tensor]:
        try:
            features = self._model.get_image_features(
                pixel_values_aux=pixels.to(self._model.device)
            )
            # Copies: a view would keep the features of the whole batch in memory.
            return [one.clone() for one in features]
        except torch.OutOfMemoryError as error:
            raise MGMError(
                f"the device has too little memory to encode an image ({one_line(error)[:200]}); "
                "send fewer requests at once, or shorter ones"
            ) from error

    def _finish(self, batch: Sequence[_PendingImage], features: Sequence[Tensor]) -> None:
        for one, of_image in zip(batch, features, strict=True):
            self._cache.put(one.key, of_image)
            with self._lock:
                del self._pending[one.key]
            one.features.set_result(of_image)

    def _fail(self, batch: Sequence[_PendingImage], error: BaseException) -> None:
        if isinstance(error, Exception):
            error = as_request_error(error, "encoding an image")
        for one in batch:
            with self._lock:
                del self._pending[one.key]
            one.features.set_exception(error)

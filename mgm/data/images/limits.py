"""Limits of image formats and sizes, and the memory budget of concurrent decoding."""

from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition

# Pillow's format names, of decoders that report the size before decoding.
NETWORK_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
EXTERNAL_FORMATS = ("EPS",)  # decoded by Ghostscript, an external program; never opened


@dataclass(frozen=True)
class ImageLimits:
    """Accepted image formats and maximum sizes.

    Attributes:
        formats: Pillow's names of the file formats; None: all except `EXTERNAL_FORMATS`.
        max_pixels: maximum pixels of an image, and of each frame or tile while decoding.
        max_side: maximum length of the longer side in pixels, which limits resize weights.
        max_decoding_bytes: memory for concurrent decoding; an image that needs more is decoded
            alone.
    """

    formats: tuple[str, ...] | None = None
    max_pixels: int = 178_956_970  # Pillow's limit for decompression bombs
    max_side: int = 1_000_000
    max_decoding_bytes: int = 4 * 2**30


LOCAL_LIMITS = ImageLimits()
NETWORK_LIMITS = ImageLimits(NETWORK_FORMATS, 64 * 2**20, 100_000, 2**29)


class MemoryBudget:
    """A memory budget shared by threads; reservations wait in FIFO order.

    Args:
        max_bytes: the size of the budget.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._used = 0
        self._queue: deque[object] = deque()
        self._changed = Condition()

    @contextmanager
    def reserve(self, size: int) -> Generator[None]:
        """Hold `size` bytes of the budget, at most the whole of it, while the block runs.

        Not reentrant: a thread that reserves twice may wait for itself.
        """
        size, ticket = min(size, self.max_bytes), object()
        with self._changed:
            self._queue.append(ticket)
            try:
                self._changed.wait_for(
                    lambda: self._queue[0] is ticket and self._used + size <= self.max_bytes
                )
                self._used += size
            finally:  # also after an interrupt: otherwise later threads would wait forever
                self._queue.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()

"""LRU cache of encoded images, keyed by content."""

import hashlib
from collections import OrderedDict
from threading import Lock

from PIL import Image
from torch import Tensor

CAPACITY = 512 * 2**20  # bytes: about 100 images of a 7B model, 20 in HD
HASHED_PIXELS = 2**20  # hashed at a time


class EncoderCache:
    """LRU cache of image features; thread-safe.

    Args:
        capacity: maximum size in bytes.

    Attributes:
        nbytes: current size.
        hits: lookups that found features.
        misses: lookups that did not.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self.nbytes = 0
        self.hits = 0
        self.misses = 0
        self._features: OrderedDict[bytes, Tensor] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._features)

    def get(self, key: bytes, count: bool = True) -> Tensor | None:
        """Look up the features of the image with this key; None: they are not cached.

        Args:
            key: key of the image, see `image_key`.
            count: whether the lookup counts as a hit or miss, and updates the LRU order.
        """
        with self._lock:
            features = self._features.get(key)
            if not count:
                return features
            if features is None:
                self.misses += 1
                return None
            self.hits += 1
            self._features.move_to_end(key)
            return features

    def put(self, key: bytes, features: Tensor) -> None:
        """Cache the features of the image with this key, unless they exceed the capacity."""
        with self._lock:
            self._drop(key)
            if features.nbytes > self.capacity:
                return
            self._features[key] = features
            self.nbytes += features.nbytes
            while self.nbytes > self.capacity:
                self._drop(next(iter(self._features)))

    def _drop(self, key: bytes) -> None:
        features = self._features.pop(key, None)
        if features is not None:
            self.nbytes -= features.nbytes


def image_key(image: Image.Image, settings: str = "") -> bytes:
    """Hash of an image's pixels, mode and size, and of the settings that it is encoded with.

    Args:
        image: the image.
        settings: everything else that the features depend on.
    """
    digest = hashlib.blake2b(f"{image.mode} {image.size} {settings}".encode(), digest_size=16)
    rows = max(HASHED_PIXELS // max(image.width, 1), 1)
    for top in range(0, image.height, rows):  # all bytes at once would double the memory
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        digest.update(band.tobytes())
    return digest.digest()

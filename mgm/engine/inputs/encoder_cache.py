"""Encoded images that may be asked about again."""

import hashlib
from collections import OrderedDict
from threading import Lock

from PIL import Image
from torch import Tensor

CAPACITY = 512 * 2**20  # bytes: about 100 images of a 7B model, 20 in HD

BAND = 2**20  # pixels that are hashed at a time


class FeatureCache:
    """Image features by image; those unused for longest leave first. Threads may share it.

    Args:
        capacity: bytes that the features may take together.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self.size = 0  # bytes
        self.hits = 0
        self.misses = 0
        self._features: OrderedDict[bytes, Tensor] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._features)

    def get(self, key: bytes) -> Tensor | None:
        """The features of the image with this key, if they are here."""
        with self._lock:
            features = self._features.get(key)
            if features is None:
                self.misses += 1
                return None
            self.hits += 1
            self._features.move_to_end(key)
            return features

    def peek(self, key: bytes) -> Tensor | None:
        """The same, for who has asked before: nothing is counted."""
        with self._lock:
            return self._features.get(key)

    def put(self, key: bytes, features: Tensor) -> None:
        """Keep the features of the image with this key, unless they alone are too large."""
        with self._lock:
            self._drop(key)
            if features.nbytes > self.capacity:
                return
            self._features[key] = features
            self.size += features.nbytes
            while self.size > self.capacity:
                self._drop(next(iter(self._features)))

    def _drop(self, key: bytes) -> None:
        features = self._features.pop(key, None)
        if features is not None:
            self.size -= features.nbytes


def image_key(image: Image.Image, settings: str = "") -> bytes:
    """A key that two images share only if they are equal in every pixel, and seen in the same way.

    Args:
        image: its mode and size count too.
        settings: whatever else the features depend on.
    """
    digest = hashlib.blake2b(f"{image.mode} {image.size} {settings}".encode(), digest_size=16)
    rows = max(BAND // max(image.width, 1), 1)
    for top in range(0, image.height, rows):  # the bytes of all would take twice what it takes
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        digest.update(band.tobytes())
    return digest.digest()

"""Images to what the language model reads in their place; each is encoded once."""

import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mgm.data.images.decoding import read_header
from mgm.data.images.limits import LOCAL_LIMITS, ImageLimits, MemoryBudget
from mgm.data.images.loading import ImageSource, image_file, is_file, open_image
from mgm.data.processing_mgm import MGMProcessor
from mgm.engine.core.faults import as_fault
from mgm.engine.inputs.encoder_cache import FeatureCache, image_key
from mgm.errors import MGMError, one_line
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.model.vision.fusion.fusion_config import DEFAULT_FUSION, FusionConfig

IMAGES_AT_ONCE = 8  # that go through the towers together
FILES = 10_000  # whose images are remembered by their bytes


@dataclass(frozen=True)
class PreparedImage:
    """An image that is decoded and resized, if it was not encoded before.

    Attributes:
        key: the same for the same pixels, seen in the same way.
        features: (image tokens, width), if they were known.
        pixels: (1, 3, A, A) uint8, what the model takes, if they were not.
        fusion: with which the model sees it.
    """

    key: bytes
    features: Tensor | None
    pixels: Tensor | None
    fusion: FusionConfig = DEFAULT_FUSION


@dataclass(frozen=True)
class _Wanted:
    """An image that waits for the towers."""

    key: bytes
    pixels: Tensor
    features: Future[Tensor]


class ImageEncoder:
    """Encodes images, and remembers what came of them. Threads may share it.

    Images that several threads want at the same time go through the towers together.

    Args:
        model: whose towers see.
        processor: prepares images for them.
        submit: makes a call that works with the model, now or soon, here or in another thread.

    Attributes:
        features: of images, by their pixels and how they are seen.
        limits: of image files, and of the memory for decoding them.
    """

    def __init__(
        self,
        model: MGMForConditionalGeneration,
        processor: MGMProcessor,
        submit: Callable[[Callable[[], None]], Any],
    ) -> None:
        self.model = model
        self.processor = processor
        self.features = FeatureCache()
        self.limits = LOCAL_LIMITS
        self._keys: OrderedDict[bytes, bytes] = OrderedDict()  # by the bytes of image files
        self._submit = submit
        self._lock = Lock()
        self._waiting: deque[_Wanted] = deque()
        self._underway: dict[bytes, Future[Tensor]] = {}  # by key; of those that wait, too

    @property
    def limits(self) -> ImageLimits:
        """Of image files; all threads share its memory for decoding."""
        return self._limits

    @limits.setter
    def limits(self, limits: ImageLimits) -> None:
        self._limits = limits
        self._budget = MemoryBudget(limits.max_decoding_bytes)

    def open(self, source: ImageSource, label: str, orientation: str | None = None) -> Image.Image:
        """See `mgm.data.images.loading.open_image`; within the limits, and the shared memory.

        Args:
            source: as for `open_image`.
            label: which image it is; errors begin with it.
            orientation: "upright" or "stored"; None: the processor's.
        """
        orientation = orientation or self.processor.image_processor.orientation
        if not is_file(source):
            return open_image(source, label, orientation)
        encoded = read_header(*image_file(source, label), self.limits)
        with self._budget.reserve(encoded.decoding_bytes):
            return encoded.decode(orientation)

    def prepare(
        self,
        sources: Sequence[ImageSource],
        labels: Sequence[str],
        alone: bool = False,
        orientations: Sequence[str | None] | None = None,
    ) -> list[PreparedImage]:
        """Do for images what needs no model. The bytes of a file that was seen are not decoded.

        Args:
            sources: as for `open_image`.
            labels: which images they are; errors begin with them.
            alone: whether nothing is computed meanwhile; else most cores are left to that.
            orientations: of each, "upright" or "stored"; None: the processor's.

        Raises:
            MGMError: there is no image, or it is damaged or larger than the limits.
        """
        processor = self.processor.image_processor
        fusion = self.model.fusion
        settings = f"{processor.to_json_string()} {self.model.dtype} {fusion.to_json()}"
        names: list[tuple[bytes | int, str]] = []
        todo: dict[tuple[bytes | int, str], partial[PreparedImage]] = {}
        orientations = [None] * len(sources) if orientations is None else orientations
        for source, label, wanted in zip(sources, labels, orientations, strict=True):
            orientation = wanted or processor.orientation
            if is_file(source):
                content, name = image_file(source, label)
                salt = hashlib.blake2b(f"{settings} {orientation}".encode()).digest()
                digest = hashlib.blake2b(content, key=salt).digest()
                names.append((digest, orientation))
                call = partial(self._of_file, content, name, digest, settings, orientation)
            else:
                names.append((id(source), orientation))
                call = partial(self._of_pixels, source, label, settings, orientation)
            todo.setdefault(names[-1], call)
        cores = torch.get_num_threads()
        threads = min(len(todo), cores if alone else max(cores // 4, 1))
        if threads > 1:
            with ThreadPoolExecutor(threads) as pool:
                done = list(pool.map(partial.__call__, todo.values()))
        else:
            done = [call() for call in todo.values()]
        prepared = dict(zip(todo, done, strict=True))
        return [replace(prepared[name], fusion=fusion) for name in names]

    def _of_file(
        self, content: bytes, name: str, digest: bytes, settings: str, orientation: str
    ) -> PreparedImage:
        key = self._keys.get(digest)
        features = None if key is None else self.features.get(key)
        if key is not None and features is not None:
            return PreparedImage(key, features, None)
        encoded = read_header(content, name, self.limits)
        # Until all is made of the pixels: they take most of the memory.
        with self._budget.reserve(encoded.decoding_bytes):
            prepared = self._prepared(encoded.decode(orientation), settings)
        with self._lock:
            self._keys[digest] = prepared.key
            while len(self._keys) > FILES:
                self._keys.popitem(last=False)
        return prepared

    def _of_pixels(
        self, source: ImageSource, label: str, settings: str, orientation: str
    ) -> PreparedImage:
        return self._prepared(open_image(source, label, orientation), settings)

    def _prepared(self, image: Image.Image, settings: str) -> PreparedImage:
        """What the model takes of an RGB image."""
        key = image_key(image, settings)
        features = self.features.get(key)
        if features is not None:
            return PreparedImage(key, features, None)
        pixels = self.processor.image_processor(image, do_normalize=False)["pixel_values_aux"]
        return PreparedImage(key, None, pixels)

    def encode(self, images: Sequence[PreparedImage]) -> list[Tensor]:
        """The features of images: (image tokens, width) each.

        Raises:
            MGMError: the device has too little memory for one, nobody computes any more, or the
                model's fusion was changed since they were prepared.
        """
        if any(image.fusion != self.model.fusion for image in images):
            raise MGMError("the fusion was changed after images were prepared; prepare them anew")
        wanted: dict[bytes, Future[Tensor]] = {}
        with self._lock:
            before = len(self._waiting)
            for image in images:
                if image.pixels is not None and image.key not in wanted:
                    wanted[image.key] = self._want(image.key, image.pixels)
            new = len(self._waiting) - before
        try:
            # Each takes the first that wait, whosever they are: all are taken in the end.
            for _ in range(0, new, IMAGES_AT_ONCE):
                self._submit(self._see_next)
        except BaseException as error:
            self.end(error)  # or others would wait for what nobody does
            raise
        return [
            wanted[image.key].result() if image.features is None else image.features
            for image in images
        ]

    def end(self, error: BaseException) -> None:
        """Encode nothing of what waits; whoever wants it gets an error."""
        self._failed(self._next(len(self._waiting)), error)

    def _want(self, key: bytes, pixels: Tensor) -> Future[Tensor]:
        """What will be the features of an image, which waits unless somebody has wanted it."""
        if key in self._underway:
            return self._underway[key]
        features: Future[Tensor] = Future()
        known = self.features.peek(key)
        if known is not None:
            features.set_result(known)
        else:
            self._underway[key] = features
            self._waiting.append(_Wanted(key, pixels, features))
        return features

    def _see_next(self) -> None:
        self._see(self._next(IMAGES_AT_ONCE))

    def _next(self, most: int) -> list[_Wanted]:
        with self._lock:
            return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def _see(self, group: Sequence[_Wanted]) -> None:
        if not group:  # another call has taken it along
            return
        try:
            self._done(group, self._features(torch.cat([one.pixels for one in group])))
        except Exception as error:  # noqa: BLE001  whoever wants it gets it
            if len(group) == 1:
                self._failed(group, error)
                return
            self._see_singly(group)
        except BaseException as error:
            self._failed(group, error)
            raise

    def _see_singly(self, group: Sequence[_Wanted]) -> None:
        """One by one they take less memory, and the fault of one is its own."""
        for number, one in enumerate(group):
            try:
                self._see([one])
            except BaseException as error:
                self._failed(group[number + 1 :], error)
                raise

    @torch.inference_mode()
    def _features(self, pixels: Tensor) -> list[Tensor]:
        try:
            seen = self.model.get_image_features(pixel_values_aux=pixels.to(self.model.device))
            # Copies, so that a cached image does not keep the whole group in memory.
            return [features.clone() for features in seen]
        except torch.OutOfMemoryError as error:
            raise MGMError(
                f"the device has too little memory to see an image ({one_line(error)[:200]}); "
                "ask for fewer or shorter answers at once"
            ) from error

    def _done(self, group: Sequence[_Wanted], seen: Sequence[Tensor]) -> None:
        for one, features in zip(group, seen, strict=True):
            self.features.put(one.key, features)
            with self._lock:
                del self._underway[one.key]
            one.features.set_result(features)

    def _failed(self, group: Sequence[_Wanted], error: BaseException) -> None:
        if isinstance(error, Exception):
            error = as_fault(error, "encoding an image")
        for one in group:
            with self._lock:
                del self._underway[one.key]
            one.features.set_exception(error)

"""Opens, preprocesses and encodes images to features, with an encoder cache."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mgm.data.images.decoding import read_image_header
from mgm.data.images.limits import LOCAL_LIMITS, ImageLimits, MemoryBudget
from mgm.data.images.loading import ImageSource, image_file, is_file, open_image
from mgm.data.processing_mgm import MGMProcessor
from mgm.engine.inputs.encoder_cache import EncoderCache, image_key
from mgm.engine.inputs.encoder_queue import EncoderQueue
from mgm.errors import MGMError
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.model.vision.fusion.fusion_config import DEFAULT_FUSION, FusionConfig

MAX_FILE_DIGESTS = 10_000  # image files whose encoder cache keys are kept


@dataclass(frozen=True)
class PreparedImage:
    """An image that is decoded and resized, unless its features are cached.

    Attributes:
        key: the key of its features in the encoder cache.
        features: (image tokens, width), if they were cached.
        pixels: (1, 3, A, A) uint8 input of the model, if they were not.
        fusion: setting of the model that it was prepared for.
    """

    key: bytes
    features: Tensor | None
    pixels: Tensor | None
    fusion: FusionConfig = DEFAULT_FUSION


class ImageEncoder:
    """Opens, preprocesses and encodes images, and caches the features; thread-safe.

    Images of several threads are encoded as one batch, and an image that several encode at the same
    time is encoded once.

    Args:
        model: model with the vision encoders.
        processor: preprocesses images for them.
        run_soon: runs a call that uses the model, now or later, in this thread or another.

    Attributes:
        cache: features by image.
        limits: limits of image files, and of the memory for decoding them.
    """

    def __init__(
        self,
        model: MGMForConditionalGeneration,
        processor: MGMProcessor,
        run_soon: Callable[[Callable[[], None]], Any],
    ) -> None:
        self._model = model
        self._processor = processor
        self.cache = EncoderCache()
        self.limits = LOCAL_LIMITS
        self._keys: OrderedDict[bytes, bytes] = OrderedDict()  # by digest of image files
        self._lock = Lock()
        self._queue = EncoderQueue(model, self.cache, run_soon)

    @property
    def limits(self) -> ImageLimits:
        """Limits of image files; all threads share the memory for decoding."""
        return self._limits

    @limits.setter
    def limits(self, limits: ImageLimits) -> None:
        self._limits = limits
        self._budget = MemoryBudget(limits.max_decoding_bytes)

    def open(
        self, source: ImageSource, label: str = "image", orientation: str | None = None
    ) -> Image.Image:
        """Open an RGB image, with the limits on images of requests.

        Args:
            source: image source, as for `mgm.data.images.loading.open_image`.
            label: name of the image, the prefix of error messages.
            orientation: "upright" or "stored"; None: the processor's setting.

        Raises:
            MGMError: an image is missing, damaged or larger than the limits.
        """
        orientation = orientation or self._processor.image_processor.orientation
        if not is_file(source):
            return open_image(source, label, orientation)
        encoded = read_image_header(*image_file(source, label), self.limits)
        with self._budget.reserve(encoded.decoding_bytes):
            return encoded.decode(orientation)

    def encode(
        self, sources: Sequence[ImageSource], orientation: str | None = None
    ) -> list[Tensor]:
        """The features (image tokens, width) of each image.

        Args:
            sources: image sources, as for `open`.
            orientation: as for `open`.

        Raises:
            MGMError: as `open` and `encode_prepared`.
        """
        labels = [f"image {number} of {len(sources)}" for number in range(1, len(sources) + 1)]
        orientations = [orientation] * len(sources)
        return self.encode_prepared(self.prepare(sources, labels, orientations=orientations))

    def prepare(
        self,
        sources: Sequence[ImageSource],
        labels: Sequence[str],
        use_all_cores: bool = False,
        orientations: Sequence[str | None] | None = None,
    ) -> list[PreparedImage]:
        """Decode and resize images; files whose features are cached are not decoded.

        Args:
            sources: image sources, as for `open`.
            labels: label of each, as for `open`.
            use_all_cores: whether to use all cores, as the model is idle meanwhile; otherwise most
                cores are left to the model.
            orientations: orientation of each, as for `open`; None: the processor's setting.

        Raises:
            MGMError: an image is missing, damaged or larger than the limits.
        """
        processor = self._processor.image_processor
        fusion = self._model.fusion
        settings = f"{processor.to_json_string()} {self._model.dtype} {fusion.to_json()}"
        # Sources that are the same file or object, in the same orientation, are prepared once.
        identities: list[tuple[bytes | int, str]] = []
        calls: dict[tuple[bytes | int, str], partial[PreparedImage]] = {}
        orientations = [None] * len(sources) if orientations is None else orientations
        for source, label, given in zip(sources, labels, orientations, strict=True):
            orientation = given or processor.orientation
            if is_file(source):
                content, name = image_file(source, label)
                salt = hashlib.blake2b(f"{settings} {orientation}".encode()).digest()
                digest = hashlib.blake2b(content, key=salt).digest()
                identities.append((digest, orientation))
                call = partial(self._prepare_file, content, name, digest, settings, orientation)
            else:
                identities.append((id(source), orientation))
                call = partial(self._prepare_source, source, label, settings, orientation)
            calls.setdefault(identities[-1], call)
        cores = torch.get_num_threads()
        threads = min(len(calls), cores if use_all_cores else max(cores // 4, 1))
        if threads > 1:
            with ThreadPoolExecutor(threads) as pool:
                results = list(pool.map(partial.__call__, calls.values()))
        else:
            results = [call() for call in calls.values()]
        prepared = dict(zip(calls, results, strict=True))
        return [replace(prepared[identity], fusion=fusion) for identity in identities]

    def _prepare_file(
        self, content: bytes, name: str, digest: bytes, settings: str, orientation: str
    ) -> PreparedImage:
        key = self._keys.get(digest)
        features = None if key is None else self.cache.get(key)
        if key is not None and features is not None:
            return PreparedImage(key, features, None)
        encoded = read_image_header(content, name, self.limits)
        # Reserved until the pixels are preprocessed: these take most of the memory.
        with self._budget.reserve(encoded.decoding_bytes):
            prepared = self._preprocess(encoded.decode(orientation), settings)
        with self._lock:
            self._keys[digest] = prepared.key
            while len(self._keys) > MAX_FILE_DIGESTS:
                self._keys.popitem(last=False)
        return prepared

    def _prepare_source(
        self, source: ImageSource, label: str, settings: str, orientation: str
    ) -> PreparedImage:
        return self._preprocess(open_image(source, label, orientation), settings)

    def _preprocess(self, image: Image.Image, settings: str) -> PreparedImage:
        """Preprocess an RGB image to the model's input, unless its features are cached."""
        key = image_key(image, settings)
        features = self.cache.get(key)
        if features is not None:
            return PreparedImage(key, features, None)
        pixels = self._processor.image_processor(image, do_normalize=False)["pixel_values_aux"]
        return PreparedImage(key, None, pixels)

    def encode_prepared(self, images: Sequence[PreparedImage]) -> list[Tensor]:
        """The features (image tokens, width) of each image.

        Raises:
            MGMError: the device has too little memory for one, the engine was stopped, or the
                model's fusion was changed since they were prepared.
        """
        if any(image.fusion != self._model.fusion for image in images):
            raise MGMError("the fusion was changed after images were prepared; prepare them again")
        pixels = {image.key: image.pixels for image in images if image.pixels is not None}
        futures = self._queue.encode(pixels)
        return [
            futures[image.key].result() if image.features is None else image.features
            for image in images
        ]

    def fail_waiting(self, error: BaseException) -> None:
        """Empty the queue of images; their futures get the error."""
        self._queue.fail_waiting(error)

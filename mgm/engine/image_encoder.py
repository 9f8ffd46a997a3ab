"""Images to what the language model reads in their place; each is encoded once."""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from mgm.data.images import ImageSource, decode_image, image_file, open_image
from mgm.data.processor import MGMProcessor
from mgm.engine.feature_cache import FeatureCache, image_key
from mgm.model.mgm import MGMForConditionalGeneration

IMAGES_AT_ONCE = 8  # that go through the towers together
FILES = 10_000  # whose images are remembered by their bytes


class ImageEncoder:
    """Encodes images, and remembers what came of them. Threads may share it.

    Args:
        model: whose towers see.
        processor: prepares images for them.
        compute: calls what works with the model, here or in another thread.

    Attributes:
        features: of images, by their pixels and how they are seen.
    """

    def __init__(
        self,
        model: MGMForConditionalGeneration,
        processor: MGMProcessor,
        compute: Callable[[Callable[[], list[Tensor]]], list[Tensor]],
    ) -> None:
        self.model = model
        self.processor = processor
        self.features = FeatureCache()
        self._keys: OrderedDict[bytes, bytes] = OrderedDict()  # by the bytes of image files
        self._compute = compute

    def encode(
        self, sources: Sequence[ImageSource], labels: Sequence[str]
    ) -> tuple[list[bytes], list[Tensor]]:
        """Keys of images, the same for the same pixels, and features (image tokens, width) of each.

        The bytes of a file that was seen are not decoded again.

        Args:
            sources: as for `open_image`.
            labels: which images they are; errors begin with them.

        Raises:
            MGMError: there is no image, or it is damaged.
        """
        settings = f"{self.processor.image_processor.to_json_string()} {self.model.dtype}"
        salt = hashlib.blake2b(settings.encode()).digest()
        keys: list[bytes] = []
        known: dict[bytes, Tensor] = {}
        todo: dict[bytes, Image.Image] = {}
        for source, label in zip(sources, labels, strict=True):
            digest = None
            if isinstance(source, str | os.PathLike | bytes):
                content, name = image_file(source, label)
                digest = hashlib.blake2b(content, key=salt).digest()
                key = self._keys.get(digest)
                features = None if key is None else self.features.get(key)
                if key is not None and (features is not None or key in todo):
                    keys.append(key)
                    if features is not None:
                        known[key] = features
                    continue
                image = decode_image(content, name)
            else:
                image = open_image(source, label)
            key = image_key(image, settings)
            keys.append(key)
            if digest is not None:
                self._remember(digest, key)
            if key in known or key in todo:
                continue
            features = self.features.get(key)
            if features is None:
                todo[key] = image
            else:
                known[key] = features
        names = list(todo)
        for start in range(0, len(names), IMAGES_AT_ONCE):
            group = names[start : start + IMAGES_AT_ONCE]
            seen = self._compute(partial(self._see, [todo[key] for key in group]))
            for key, features in zip(group, seen, strict=True):
                known[key] = features
                self.features.put(key, features)
        return keys, [known[key] for key in keys]

    def _remember(self, file: bytes, key: bytes) -> None:
        self._keys[file] = key
        while len(self._keys) > FILES:
            self._keys.popitem(last=False)

    @torch.inference_mode()
    def _see(self, images: list[Image.Image]) -> list[Tensor]:
        pixels = self.processor.image_processor(images, do_normalize=False)
        tensors = {name: tensor.to(self.model.device) for name, tensor in pixels.items()}
        # Copies, so that a cached image does not keep the whole group in memory.
        return [features.clone() for features in self.model.get_image_features(**tensors)]

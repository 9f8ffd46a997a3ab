"""Questions and images in, answers out."""

import os
from collections.abc import Iterator, Sequence

import torch
from PIL import Image
from torch import Tensor

from mgm.data.images import open_image
from mgm.data.processor import MGMProcessor
from mgm.data.stops import Stops, align_generation, stops_of
from mgm.data.templates import get_template
from mgm.engine.device import choose_device, choose_dtype
from mgm.engine.feature_cache import FeatureCache, image_key
from mgm.engine.generation import Batch, Generation
from mgm.engine.request import Answer, Request
from mgm.errors import MGMError, faults_of
from mgm.model.config import MGMConfig
from mgm.model.loading import check_checkpoint, checkpoint_folder, load_model
from mgm.model.mgm import MGMForConditionalGeneration

IMAGES_AT_ONCE = 8  # that go through the towers together


def load(
    path: str | os.PathLike[str],
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    quantize: str | None = None,
) -> "Engine":
    """Load a model folder, in the native or in the published layout, ready to answer.

    Args:
        path: the folder, or a name on the Hugging Face hub.
        device: "cuda", "cuda:1", "mps" or "cpu"; None: the first of them that is there.
        dtype: "float32", "bfloat16" or "float16"; None: float32 on a CPU, else bfloat16 or, where
            that is slow, float16.
        quantize: None; nothing else is supported yet.

    Raises:
        MGMError: the folder holds no model of ours, or the device or dtype is not there.
    """
    if quantize is not None:
        raise MGMError(f"quantize is {quantize!r}, which is not supported yet; leave it out (None)")
    if not os.fspath(path):
        raise MGMError("the model's path is empty; give the folder of a model")
    place = choose_device(device)
    precision = choose_dtype(dtype, place)
    folder = checkpoint_folder(path)
    with faults_of(folder):
        check_checkpoint(folder)  # what is wrong with a foreign folder is not its tokenizer
        processor = MGMProcessor.from_pretrained(folder)
        model = load_model(folder, dtype=precision, device=place)
        align_generation(model.generation_config, processor.tokenizer, processor.template)
        return Engine(model, processor)


class Stream(Iterator[str]):
    """An answer, piece by piece."""

    def __init__(self, batch: Batch, generation: Generation) -> None:
        self._batch = batch
        self._generation = generation

    def __next__(self) -> str:
        while self._generation.finish_reason is None:
            self._batch.step()
            piece = self._generation.take()
            if piece:
                return piece
        piece = self._generation.take()
        if piece:
            return piece
        raise StopIteration

    def close(self) -> None:
        """Write no more; what was held back still comes."""
        self._generation.finish("cancelled")

    @property
    def answer(self) -> Answer:
        """The answer as far as it is written."""
        return self._generation.answer()


class Engine:
    """Answers requests with one model.

    Attributes:
        model: the model.
        processor: its processor.
        template: how prompts are written.
        features: encoded images, so that a second question about an image encodes nothing.

    Raises:
        MGMError: the processor prepares images for another model.
    """

    def __init__(self, model: MGMForConditionalGeneration, processor: MGMProcessor) -> None:
        _check_match(model.config, processor)
        self.model = model
        self.processor = processor
        self.features = FeatureCache()
        self.use_template(processor.conversation)

    def use_template(self, name: str) -> None:
        """Write prompts with the conversation template `name` from now on.

        Raises:
            MGMError: there is no such template; the message lists the names.
        """
        self.template = get_template(name, self.processor.wrap_images)
        self._conversation = name
        self._stops = stops_of(
            self.processor.tokenizer,
            self.template,
            self.model.config.text_config.eos_token_id,
            self.model.language_model.generation_config.eos_token_id,
            self.model.generation_config.eos_token_id,
        )

    def answer(self, requests: Sequence[Request], batch_size: int = 16) -> list[Answer]:
        """Answer every request, in order; each answer is as it would be alone.

        Args:
            requests: what is asked.
            batch_size: how many are answered together, at most.

        Raises:
            MGMError: an image cannot be opened, or a prompt is too long; names the request.
        """
        if isinstance(requests, Request):
            raise MGMError("answer takes a list of requests; put the request into a list")
        answers: list[Answer] = []
        for start in range(0, len(requests), max(batch_size, 1)):
            group = requests[start : start + max(batch_size, 1)]
            labels = [
                f"request {start + i} of {len(requests)}: " if len(requests) > 1 else ""
                for i in range(1, len(group) + 1)
            ]
            generations = self._prepare(group, labels)
            batch = Batch(self.model, generations)
            while batch.generations:
                batch.step()
            answers += [generation.answer() for generation in generations]
        return answers

    def stream(self, request: Request) -> Stream:
        """Answer one request piece by piece; the pieces together are the text of `answer`.

        Raises:
            MGMError: an image cannot be opened, or the prompt is too long.
        """
        generations = self._prepare([request], [""])
        return Stream(Batch(self.model, generations), generations[0])

    def prompt(self, request: Request) -> str:
        """The text that the model reads for `request`, image markers not expanded."""
        return self.processor.prompt(
            request.prompt, request.history, len(request.images), conversation=self._conversation
        )

    def room(self, request: Request) -> int:
        """Positions that the prompt of `request` leaves to its answer; none: it is too long."""
        return max(self.context - len(self.processor.encode(self.prompt(request))), 0)

    @property
    def context(self) -> int:
        """Positions that a prompt and its answer can take together."""
        config = self.model.config
        return (
            getattr(config.text_config, "max_position_embeddings", None)
            or config.model_max_length
            or torch.iinfo(torch.int32).max
        )

    def encode_images(self, images: Sequence[Image.Image]) -> list[Tensor]:
        """What the language model reads in place of images: (image tokens, width) each."""
        keys = [image_key(image) for image in images]
        known: dict[bytes, Tensor] = {}
        todo: dict[bytes, Image.Image] = {}
        for key, image in dict(zip(keys, images, strict=True)).items():
            features = self.features.get(key)
            if features is None:
                todo[key] = image
            else:
                known[key] = features
        names = list(todo)
        for start in range(0, len(names), IMAGES_AT_ONCE):
            group = names[start : start + IMAGES_AT_ONCE]
            for key, features in zip(group, self._encode([todo[k] for k in group]), strict=True):
                known[key] = features
                self.features.put(key, features)
        return [known[key] for key in keys]

    @torch.inference_mode()
    def _encode(self, images: list[Image.Image]) -> list[Tensor]:
        pixels = self.processor.image_processor(images, return_tensors="pt")
        tensors = {name: tensor.to(self.model.device) for name, tensor in pixels.items()}
        # Copies, so that a cached image does not keep the whole group in memory.
        return [features.clone() for features in self.model.get_image_features(**tensors)]

    def _prepare(self, requests: Sequence[Request], labels: Sequence[str]) -> list[Generation]:
        prompts = [
            self._encode_prompt(request, label)
            for request, label in zip(requests, labels, strict=True)
        ]
        images = [
            open_image(source, f"{label}image {index} of {len(request.images)}")
            for request, label in zip(requests, labels, strict=True)
            for index, source in enumerate(request.images, start=1)
        ]
        features = iter(self.encode_images(images))
        return [
            Generation(
                request,
                ids,
                [next(features) for _ in request.images],
                self.processor.tokenizer,
                Stops(self._stops.ids, (*self._stops.texts, *request.stop)),
                room=self.context - len(ids),
            )
            for request, ids in zip(requests, prompts, strict=True)
        ]

    def _encode_prompt(self, request: Request, label: str) -> list[int]:
        ids = self.processor.encode(self.prompt(request))
        if len(ids) >= self.context:
            per_image = self.model.config.image_tokens_per_image
            count = len(request.images)
            images = f" ({per_image} for each of its {count} images)" if count else ""
            raise MGMError(
                f"{label}the prompt takes {len(ids)} tokens{images}, and the model's context has "
                f"{self.context}; shorten the question or the history, or give fewer images"
            )
        return ids


def _check_match(config: MGMConfig, processor: MGMProcessor) -> None:
    images = processor.image_processor
    for name, own, other in (
        ("image_size", config.image_size, images.image_size),
        ("image_size_aux", config.image_size_aux, images.image_size_aux),
        ("image_grid", config.image_grid, images.image_grid),
        ("image_global", config.image_global, images.image_global),
        ("image_token_id", config.image_token_id, processor.image_token_id),
        (
            "image_tokens_per_image",
            config.image_tokens_per_image,
            processor.image_tokens_per_image,
        ),
    ):
        if own != other:
            raise MGMError(
                f"{name} is {own!r} in the model's config but {other!r} in its processor's "
                "settings; make them agree"
            )

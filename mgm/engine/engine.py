"""Questions and images in, answers out."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Condition
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mgm.atomic import atomic_folder
from mgm.data.image_processor import CONFIG_FIELDS
from mgm.data.images import ImageSource
from mgm.data.model_card import model_card
from mgm.data.processor import MGMProcessor
from mgm.data.stops import Stops, align_generation, stops_of
from mgm.data.templates import get_template
from mgm.data.tokenizer import vocabulary_size
from mgm.engine.beam_search import search
from mgm.engine.device import choose_device, choose_dtype
from mgm.engine.feature_cache import FeatureCache
from mgm.engine.generation import Generation, Piece
from mgm.engine.image_encoder import ImageEncoder, PreparedImage
from mgm.engine.loop import Loop, Result
from mgm.engine.request import Answer, Request
from mgm.engine.scheduler import Scheduler
from mgm.errors import MGMError, faults_of, hub_errors, one_line
from mgm.model.attention import set_attention
from mgm.model.checkpoint import check_checkpoint
from mgm.model.config import MGMConfig
from mgm.model.hub import checkpoint_folder
from mgm.model.loading import load_model, save_model
from mgm.model.mgm import MGMForConditionalGeneration
from mgm.model.onednn import use_onednn


def load(
    path: str | os.PathLike[str],
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    quantize: str | None = None,
    base: str | os.PathLike[str] | None = None,
    merge_lora: bool = True,
    text_only: bool = False,
    compile_vision: bool = False,
    compile_decoding: bool = False,
    attention: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> "Engine":
    """Load a model, in the native or in a published layout, ready to answer.

    Args:
        path: the folder, or a name on the Hugging Face hub.
        device: "cuda", "cuda:1", "mps" or "cpu"; None: the first of them that is there.
        dtype: "float32", "bfloat16" or "float16"; None: float32 on a CPU, else bfloat16 or, where
            that is slow, float16.
        quantize: the language model's weights in fewer bits: "int8" (8-bit weights), "llm-int8"
            (bitsandbytes, 8 bits), "int4" (bitsandbytes, nf4); None: as they are. Towers, mining
            and projector stay in `dtype`.
        base: the language model that stage-1 weights or a LoRA go on top of; None: the one that the
            folder names.
        merge_lora: whether a LoRA becomes part of the weights; else it stays beside them.
        text_only: whether all that sees images is left out, for questions without any.
        compile_vision: whether what sees images is compiled, which takes minutes at the first ones:
            for very many images on a GPU.
        compile_decoding: whether steps that write a token run compiled, on a GPU as CUDA graphs;
            the model loads a minute longer for it.
        attention: "sdpa", "flash_attention_2" (package flash-attn, on a GPU), "flex_attention" or
            "eager"; None: the model's own, sdpa unless its config.json names another.
        revision: branch, tag or commit on the hub.
        token: for a private repository of the hub; None: the one that was logged in with.

    Raises:
        MGMError: the folder holds no model of ours, or the device or dtype is not there.
    """
    if not os.fspath(path):
        raise MGMError("the model's path is empty; give the folder of a model")
    place = choose_device(device)
    precision = choose_dtype(dtype, place)
    folder = checkpoint_folder(path, revision=revision, token=token)
    with faults_of(folder):
        check_checkpoint(folder)  # what is wrong with a foreign folder is not its tokenizer
        processor = MGMProcessor.from_pretrained(folder, base=base)
        model = load_model(folder, precision, place, quantize, base, merge_lora, text_only)
        rows = model.config.text_config.vocab_size
        if attention is not None:
            set_attention(model, attention)
        if compile_vision and not text_only:
            model.compile_vision()
        if place.type == "cpu":
            use_onednn(model)
        align_generation(model.generation_config, processor.tokenizer, processor.template, rows)
        engine = Engine(model, processor)
        if compile_decoding:
            engine.compile_decoding()
        return engine


class Stream(Iterator[str]):
    """An answer, piece by piece. Several may be read at once, also by several threads."""

    def __init__(self, engine: "Engine", generation: Generation) -> None:
        self._engine = engine
        self._generation = generation

    def __next__(self) -> str:
        while True:
            with self._engine.turn:
                # Another thread may have written meanwhile; a step writes for all.
                piece = self._generation.take()
                if piece:
                    return piece
                if self._generation.finish_reason is not None:
                    if self._generation.fault is not None:
                        raise self._generation.fault
                    raise StopIteration
                self._engine.go_on()

    def close(self) -> None:
        """Write no more; what was held back still comes."""
        self._engine.compute(self._cancel)

    def __del__(self) -> None:
        if self._generation.finish_reason is None:
            self._engine.submit(self._cancel)  # nobody reads it any more

    def _cancel(self) -> None:
        with self._engine.turn:
            self._engine.scheduler.cancel(self._generation)

    @property
    def answer(self) -> Answer:
        """The answer as far as it is written."""
        return self._generation.answer()

    @property
    def ended(self) -> bool:
        """Whether nothing more is written.

        Raises:
            MGMError: a fault has ended it.
        """
        if self._generation.fault is not None:
            raise self._generation.fault
        return self._generation.finish_reason is not None


@dataclass(frozen=True)
class PreparedRequests:
    """Requests for which all is done that needs no model.

    Attributes:
        requests: what is asked.
        prompts: token ids of each, image positions expanded.
        images: of all requests, in order.
    """

    requests: Sequence[Request]
    prompts: Sequence[list[int]]
    images: Sequence[PreparedImage]


class Engine:
    """Answers requests with one model.

    Attributes:
        model: the model.
        processor: its processor.
        template: how prompts are written.
        scheduler: writes the answers of all requests together.
        turn: held by who uses the scheduler.

    Raises:
        MGMError: the processor prepares images for another model.
    """

    def __init__(self, model: MGMForConditionalGeneration, processor: MGMProcessor) -> None:
        _check_match(model.config, processor)
        self.model = model
        self.processor = processor
        self._encoder = ImageEncoder(model, processor, self.submit)
        # Compat: the published loader cut rows off that the tokenizer has no token for, such as
        # those that round a vocabulary up; they are never chosen here.
        self._vocabulary = vocabulary_size(processor.tokenizer)
        self.scheduler = Scheduler(
            model,
            self._vocabulary,
            prefix_bytes=_share_of_memory(model, 16, 2**29),
            row_bytes=_share_of_memory(model, 3, 2**32),
        )
        self.turn = Condition()
        self._loop: Loop | None = None
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

    def compile_decoding(self, **options: Any) -> None:
        """Compile the steps that write a token, which takes up to a minute.

        Args:
            **options: of `torch.compile`; left out: CUDA graphs on a GPU.

        Raises:
            MGMError: nothing can be compiled here.
        """
        self.compute(partial(self.scheduler.decoder.compile, **options))

    def save_pretrained(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        """Save in the native layout: model, processor and model card; generation stops as here.

        Args:
            path: the folder, which appears when it is complete.
            name: what the model card calls the model; None: the folder's name.

        Raises:
            MGMError: it could not be written.
        """
        with atomic_folder(path) as part:
            save_model(self.model, part)
            self.processor.save_pretrained(part)
            card = model_card(name or Path(path).name, self.model.config, self.processor)
            (part / "README.md").write_text(card, encoding="utf-8")

    def push_to_hub(
        self,
        repo_id: str,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload a Mini-Gemini",
    ) -> str:
        """Upload what `save_pretrained` saves to the Hugging Face hub; the repository is made.

        Args:
            repo_id: "owner/name".
            private: whether a new repository is.
            token: to write with; None: the one that was logged in with.
            revision: the branch; None: main.
            commit_message: of the upload.

        Returns:
            The address of the commit.

        Raises:
            MGMError: the hub refused, or cannot be reached.
        """
        from huggingface_hub import HfApi

        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "model"
            self.save_pretrained(folder, name=repo_id)
            try:
                hub = HfApi(token=token)
                hub.create_repo(repo_id, private=private, exist_ok=True)
                done = hub.upload_folder(
                    repo_id=repo_id,
                    folder_path=folder,
                    revision=revision,
                    commit_message=commit_message,
                )
            except hub_errors() as error:
                raise MGMError(
                    f"{repo_id}: not uploaded to the hub ({type(error).__name__}: "
                    f"{one_line(error)[:200]}); check name, token and connection"
                ) from error
        return str(done.commit_url)

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
            generations = self._begin(self.prepare(group, labels))
            for generation in generations:
                with self.turn:
                    while generation.finish_reason is None:
                        self.go_on()
            answers += [generation.answer() for generation in generations]
        return answers

    def stream(self, request: Request) -> Stream:
        """Answer one request piece by piece; the pieces together are the text of `answer`.

        Raises:
            MGMError: an image cannot be opened, or the prompt is too long.
        """
        return self.streams([request])[0]

    def streams(self, requests: Sequence[Request]) -> list[Stream]:
        """Answer requests together; their images are encoded together, too.

        Raises:
            MGMError: an image cannot be opened, or a prompt is too long.
        """
        return self.begin(self.prepare(requests))

    def prepare(
        self, requests: Sequence[Request], labels: Sequence[str] | None = None
    ) -> PreparedRequests:
        """Do for requests what needs no model, in any thread: images are decoded and resized.

        Args:
            requests: what is asked.
            labels: what errors about each begin with; None: nothing.

        Raises:
            MGMError: an image cannot be opened, or a prompt is too long.
        """
        labels = [""] * len(requests) if labels is None else labels
        prompts = [
            self._encode_prompt(request, label)
            for request, label in zip(requests, labels, strict=True)
        ]
        sources, names = [], []
        for request, label in zip(requests, labels, strict=True):
            sources += request.images
            count = len(request.images)
            names += [f"{label}image {index} of {count}" for index in range(1, count + 1)]
        return PreparedRequests(requests, prompts, self._encoder.prepare(sources, names))

    def begin(self, prepared: PreparedRequests) -> list[Stream]:
        """Answer requests that were prepared, as `streams`.

        Raises:
            MGMError: the device has too little memory to see their images.
        """
        return [Stream(self, generation) for generation in self._begin(prepared)]

    def listen(self, request: Request, listener: Callable[[Piece], None]) -> Stream:
        """Answer one request, and tell a listener of every piece; `start` has to be called before.

        Args:
            request: what is asked.
            listener: gets the pieces, the last one with the answer or the fault. The thread that
                writes calls it: it must not wait.

        Raises:
            MGMError: an image cannot be opened, or the prompt is too long.
        """
        (generation,) = self._generations(self.prepare([request]))
        generation.listener = listener
        self._enqueue(request, generation)
        return Stream(self, generation)

    def start(self) -> None:
        """Compute in a thread of its own from now on: for servers, which many ask at once."""
        if self._loop is None:
            self._loop = Loop(self.scheduler, self.turn)

    def stop(self) -> None:
        """End that thread, and all answers."""
        if self._loop is not None:
            self._loop.stop()
            self._loop = None
            self._encoder.end(MGMError("the engine was stopped"))

    def compute(self, call: Callable[[], Result]) -> Result:
        """What a call returns that works with the model, in the thread that computes."""
        return call() if self._loop is None else self._loop.submit(call).result()

    def submit(self, call: Callable[[], None]) -> None:
        """Have the thread that computes make a call, and do not wait; without one, make it here.

        Raises:
            MGMError: the engine is being stopped.
        """
        if self._loop is None:
            call()
        else:
            self._loop.submit(call)

    def go_on(self) -> None:
        """Write a token of every answer, or wait until another thread has; `turn` is held."""
        if self._loop is None:
            self.scheduler.step()
        else:
            self.turn.wait()

    def _begin(self, prepared: PreparedRequests) -> list[Generation]:
        """Let answers wait for their turns."""
        generations = self._generations(prepared)
        for request, generation in zip(prepared.requests, generations, strict=True):
            self._enqueue(request, generation)
        return generations

    def _enqueue(self, request: Request, generation: Generation) -> None:
        if request.num_beams > 1:
            self.compute(
                partial(search, self.model, generation, request.num_beams, self._vocabulary)
            )
        else:
            self.submit(partial(self._add, generation))

    def _add(self, generation: Generation) -> None:
        with self.turn:
            self.scheduler.add(generation)

    def prompt(self, request: Request) -> str:
        """The text that the model reads for `request`, image markers not expanded."""
        if request.raw:
            return request.prompt
        return self.processor.prompt(
            request.prompt,
            request.history,
            len(request.images),
            system=request.system,
            conversation=self._conversation,
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

    def encode_images(self, images: Sequence[ImageSource]) -> list[Tensor]:
        """What the language model reads in place of images: (image tokens, width) each."""
        labels = [f"image {number} of {len(images)}" for number in range(1, len(images) + 1)]
        return self._encoder.encode(self._encoder.prepare(images, labels))

    @property
    def features(self) -> FeatureCache:
        """Encoded images, so that a second question about an image encodes nothing."""
        return self._encoder.features

    def _generations(self, prepared: PreparedRequests) -> list[Generation]:
        features = iter(self._encoder.encode(prepared.images))
        keys = iter([image.key for image in prepared.images])
        return [
            Generation(
                request,
                ids,
                self._names(ids, [next(keys) for _ in request.images]),
                [next(features) for _ in request.images],
                self.processor.tokenizer,
                Stops(self._stops.ids, (*self._stops.texts, *request.stop)),
                room=self.context - len(ids),
            )
            for request, ids in zip(prepared.requests, prepared.prompts, strict=True)
        ]

    def _names(self, ids: Sequence[int], keys: Sequence[bytes]) -> np.ndarray:
        """Names of a prompt's positions: its ids, but every image has one of its own."""
        names = np.array(ids, dtype=np.int64)
        if keys:
            own = [-1 - int.from_bytes(key[:7]) for key in keys]
            at_image = names == self.processor.image_token_id
            names[at_image] = np.repeat(own, self.processor.image_tokens_per_image)
        return names

    def _encode_prompt(self, request: Request, label: str) -> list[int]:
        ids = self.processor.encode(self.prompt(request))
        rows = self.model.config.text_config.vocab_size
        for token in set(ids) - {self.processor.image_token_id}:
            if token >= rows:
                text = self.processor.tokenizer.convert_ids_to_tokens(token)
                raise MGMError(
                    f"{label}the prompt holds {text!r}, token {token}, and the model has {rows} "
                    "embeddings; its tokenizer is that of another model, or leave that text out"
                )
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
    pairs = [(name, images) for name in CONFIG_FIELDS if name != "image_aspect_ratio"]
    pairs += [(name, processor) for name in ("image_token_id", "image_tokens_per_image")]
    for name, of in pairs:
        own, other = getattr(config, name), getattr(of, name)
        if (list(own) != list(other)) if isinstance(own, list) else own != other:
            raise MGMError(
                f"{name} is {own!r} in the model's config but {other!r} in its processor's "
                "settings; make them agree"
            )


def _share_of_memory(model: MGMForConditionalGeneration, part: int, elsewhere: int) -> int:
    """Bytes: a GPU's memory, its weights left out, by `part`; or so many `elsewhere`."""
    if model.device.type != "cuda":
        return elsewhere
    weights = sum(parameter.nbytes for parameter in model.parameters())
    whole = torch.cuda.get_device_properties(model.device).total_memory
    return max(whole - weights, elsewhere) // part

"""Questions and images in, answers out."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Condition
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mgm.data.images.limits import ImageLimits
from mgm.data.images.loading import ImageSource
from mgm.data.model_card import model_card
from mgm.data.processing_mgm import MGMProcessor
from mgm.data.processor_match import check_match
from mgm.data.text.templates import Template
from mgm.data.text.tokenizer import vocabulary_size
from mgm.engine.core.errors import RequestError
from mgm.engine.core.request import Answer, Request
from mgm.engine.core.sampler import TokenMask
from mgm.engine.core.sequence import Generation, Piece
from mgm.engine.core.structured_output import StructuredOutput
from mgm.engine.core.token_bytes import TokenBytes
from mgm.engine.engine_thread import Loop, Result
from mgm.engine.grammar.compiler import GrammarCompiler
from mgm.engine.inputs.encoder_cache import FeatureCache
from mgm.engine.inputs.image_encoder import ImageEncoder, PreparedImage
from mgm.engine.inputs.prompt import PromptWriter
from mgm.engine.scheduler.beam_search import search
from mgm.engine.scheduler.scheduler import Scheduler
from mgm.errors import MGMError, hub_errors, one_line
from mgm.model.checkpoint.saved_files import replace_model
from mgm.model.loading import save_model
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.model.vision.fusion.fusion_config import FusionConfig


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
        if self._generation.finish_reason is None and not sys.is_finalizing():
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
        masks: the grammar of each answer; None: it has no form.
    """

    requests: Sequence[Request]
    prompts: Sequence[list[int]]
    images: Sequence[PreparedImage]
    masks: Sequence[TokenMask | None]


class Engine:
    """Answers requests with one model.

    Args:
        model: the model.
        processor: its processor.
        num_speculative_tokens: maximum length of n-gram drafts, which one decode step verifies:
            fewer steps, the same answers; 0: no speculative decoding.

    Attributes:
        model: the model.
        processor: its processor.
        template: how prompts are written.
        scheduler: writes the answers of all requests together.
        turn: held by who uses the scheduler.

    Raises:
        MGMError: the processor prepares images for another model, or `num_speculative_tokens` is
            negative.
    """

    def __init__(
        self,
        model: MGMForConditionalGeneration,
        processor: MGMProcessor,
        num_speculative_tokens: int = 0,
    ) -> None:
        check_match(model.config, processor)
        self.model = model
        self.processor = processor
        self._prompts = PromptWriter(model, processor)
        self._encoder = ImageEncoder(model, processor, self.submit)
        # Compat: the published loader cut rows off that the tokenizer has no token for, such as
        # those that round a vocabulary up; they are never chosen here.
        self._vocabulary = vocabulary_size(processor.tokenizer)
        self._token_bytes = TokenBytes(processor.tokenizer)
        self._ids = min(self._vocabulary, model.config.text_config.vocab_size)
        self._grammars = GrammarCompiler(self._token_bytes, self._ids)
        self.scheduler = Scheduler(
            model,
            self._vocabulary,
            prefix_bytes=_share_of_memory(model, 16, 2**29),
            row_bytes=_share_of_memory(model, 3, 2**32),
            num_speculative_tokens=num_speculative_tokens,
        )
        self.turn = Condition()
        self._loop: Loop | None = None

    def use_template(self, name: str) -> None:
        """Write prompts with the conversation template `name` from now on.

        Raises:
            MGMError: there is no such template; the message lists the names.
        """
        self._prompts.use_template(name)

    @property
    def template(self) -> Template:
        """How prompts are written."""
        return self._prompts.template

    @property
    def fusion(self) -> FusionConfig:
        """How the encoders' outputs become image tokens; not saved with the model where it is set.

        It takes a `FusionConfig`, a dictionary of its fields, or None for what config.json says.
        Encoded images and prompts are kept for each setting, so that none sees those of another.

        Raises:
            MGMError: a field is not valid, the model cannot be run so, or answers are being
                written.
        """
        return self.model.fusion

    @fusion.setter
    def fusion(self, fusion: FusionConfig | Mapping[str, Any] | None) -> None:
        self.compute(partial(self._set_fusion, fusion))

    def _set_fusion(self, fusion: FusionConfig | Mapping[str, Any] | None) -> None:
        with self.turn:
            if self.scheduler.busy:
                raise MGMError("answers are being written; set the fusion before or after them")
            self.model.fusion = fusion

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
            path: the folder; a model that it holds already is replaced when this one is written.
            name: what the model card calls the model; None: the folder's name.

        Raises:
            MGMError: it could not be written.
        """
        with replace_model(Path(path)) as part:
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
            streams = self.begin(self.prepare(group, labels))
            for stream in streams:
                with self.turn:
                    while not stream.ended:
                        self.go_on()
            answers += [stream.answer for stream in streams]
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
        self,
        requests: Sequence[Request],
        labels: Sequence[str] | None = None,
        alone: bool = False,
    ) -> PreparedRequests:
        """Do for requests what needs no model, in any thread: images are decoded and resized.

        Args:
            requests: what is asked.
            labels: what errors about each begin with; None: nothing.
            alone: whether nothing is computed meanwhile, and all cores may do this.

        Raises:
            MGMError: an image cannot be opened, a prompt is empty or too long, a token of
                `logit_bias` is none of the model's, or `structured_output` cannot be used.
        """
        labels = [""] * len(requests) if labels is None else labels
        prompts: list[list[int]] = []
        known: dict[str, list[int]] = {}  # answers to one prompt need its ids once
        for request, label in zip(requests, labels, strict=True):
            text = self._prompts.text(request)
            if text not in known:
                known[text] = self._prompts.ids(text, len(request.images), label)
            prompts.append(known[text])
        sources, names, orientations = [], [], []
        for request, label in zip(requests, labels, strict=True):
            sources += request.images
            count = len(request.images)
            names += [f"{label}image {index} of {count}" for index in range(1, count + 1)]
            orientations += [request.orientation] * count
        masks = [
            self._mask(request, label) for request, label in zip(requests, labels, strict=True)
        ]
        try:
            images = self._encoder.prepare(sources, names, alone, orientations)
        except MGMError as error:
            raise RequestError(error, "images") from error
        return PreparedRequests(requests, prompts, images, masks)

    def begin(self, prepared: PreparedRequests) -> list[Stream]:
        """Answer requests that were prepared, as `streams`.

        Raises:
            MGMError: the device has too little memory to see their images.
        """
        generations = self._generations(prepared)
        for request, generation in zip(prepared.requests, generations, strict=True):
            self._enqueue(request, generation)
        return [Stream(self, generation) for generation in generations]

    def listen(self, request: Request, listener: Callable[[Piece], None]) -> Stream:
        """Answer one request, and tell a listener of every piece; `start` has to be called before.

        Args:
            request: what is asked.
            listener: gets the pieces, the last one with the answer or the fault. The thread that
                writes calls it: it must not wait.

        Raises:
            MGMError: an image cannot be opened, or the prompt is too long.
        """
        return self.listen_all([request], lambda _, piece: listener(piece))[0]

    def listen_all(
        self, requests: Sequence[Request], listener: Callable[[int, Piece], None]
    ) -> list[Stream]:
        """Answer requests together, as `listen`; what they share is prepared once.

        Args:
            requests: what is asked.
            listener: gets the index of a request and a piece of its answer.

        Raises:
            MGMError: an image cannot be opened, or a prompt is too long; nothing is answered.
        """
        generations = self._generations(self.prepare(requests))
        for index, generation in enumerate(generations):
            generation.listener = partial(listener, index)
        for index, (request, generation) in enumerate(zip(requests, generations, strict=True)):
            self._enqueue(request, generation, index)
        return [Stream(self, generation) for generation in generations]

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

    def _enqueue(self, request: Request, generation: Generation, number: int = 0) -> None:
        if request.num_beams > 1:
            self.compute(
                partial(search, self.model, generation, request.num_beams, self._vocabulary)
            )
        else:
            self.submit(partial(self._add, generation, number))

    def _add(self, generation: Generation, number: int) -> None:
        with self.turn:
            self.scheduler.add(generation, number)

    def compile_grammar(self, form: StructuredOutput) -> None:
        """Compile the grammar of answers of some form; requests that come soon find it compiled.

        Raises:
            MGMError: it is no schema, regular expression or grammar, it is too complex, nothing can
                match it, or llguidance is not installed.
            EngineBusyError: others take too long.
        """
        self._grammars.compile(form, self._prompts.stops.ids)

    def prompt(self, request: Request) -> str:
        """The text that the model reads for `request`, image markers not expanded."""
        return self._prompts.text(request)

    def room(self, request: Request) -> int:
        """Positions that the prompt of `request` leaves to its answer; none: it is too long."""
        return max(self.context - len(self.processor.encode(self.prompt(request))), 0)

    @property
    def context(self) -> int:
        """Positions that a prompt and its answer can take together."""
        return self._prompts.context

    def encode_images(
        self, images: Sequence[ImageSource], orientation: str | None = None
    ) -> list[Tensor]:
        """What the language model reads in place of images: (image tokens, width) each.

        Args:
            images: as of a request.
            orientation: "upright" or "stored"; None: the processor's.
        """
        labels = [f"image {number} of {len(images)}" for number in range(1, len(images) + 1)]
        orientations = [orientation] * len(images)
        prepared = self._encoder.prepare(images, labels, orientations=orientations)
        return self._encoder.encode(prepared)

    def open_image(
        self, source: ImageSource, label: str = "image", orientation: str | None = None
    ) -> Image.Image:
        """An RGB image, opened as those of requests: within `image_limits`.

        Args:
            source: as of a request.
            label: which image it is; errors begin with it.
            orientation: "upright" or "stored"; None: the processor's.

        Raises:
            MGMError: there is no image, or it is damaged or larger than the limits.
        """
        return self._encoder.open(source, label, orientation)

    @property
    def image_limits(self) -> ImageLimits:
        """Formats and sizes of image files, and the memory for all that are decoded at a time."""
        return self._encoder.limits

    @image_limits.setter
    def image_limits(self, limits: ImageLimits) -> None:
        self._encoder.limits = limits

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
                self._prompts.names(ids, [next(keys) for _ in request.images]),
                [next(features) for _ in request.images],
                self._token_bytes,
                self._prompts.stops_of(request),
                room=self.context - len(ids),
                mask=mask,
            )
            for request, ids, mask in zip(
                prepared.requests, prepared.prompts, prepared.masks, strict=True
            )
        ]

    def _mask(self, request: Request, label: str) -> TokenMask | None:
        """The grammar of an answer, if it has one; checks the tokens of its biases."""
        for token in request.logit_bias:
            if token >= self._ids:
                raise RequestError(
                    f"{label}logit_bias names token {token}, and the model has {self._ids}; give "
                    "ids of its tokenizer",
                    "logit_bias",
                )
        form = request.structured_output
        if form is None:
            return None
        try:
            return self._grammars.compile(form, self._prompts.stops.ids)
        except RequestError as error:
            raise RequestError(f"{label}{error}", error.field) from error


def _share_of_memory(model: MGMForConditionalGeneration, part: int, elsewhere: int) -> int:
    """Bytes: a GPU's memory, its weights left out, by `part`; or so many `elsewhere`."""
    if model.device.type != "cuda":
        return elsewhere
    weights = sum(parameter.nbytes for parameter in model.parameters())
    whole = torch.cuda.get_device_properties(model.device).total_memory
    return max(whole - weights, elsewhere) // part

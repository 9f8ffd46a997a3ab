"""The engine: answers requests with continuous batching."""

import os
from collections import abc
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from mgm.data.processing_mgm import MGMProcessor
from mgm.data.processor_match import check_match
from mgm.data.text.templates import ConversationTemplate
from mgm.engine import saving
from mgm.engine.core.request import Answer, Request
from mgm.engine.core.sequence import Chunk, Sequence
from mgm.engine.core.structured_output import StructuredOutput
from mgm.engine.engine_core import EngineCore
from mgm.engine.engine_thread import Result
from mgm.engine.inputs.image_encoder import ImageEncoder
from mgm.engine.request_preparer import PreparedRequests, RequestPreparer
from mgm.engine.scheduler.beam_search import beam_search
from mgm.engine.scheduler.config import SchedulerConfig
from mgm.engine.scheduler.scheduler import Scheduler
from mgm.engine.stream import Stream
from mgm.errors import MGMError
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.model.vision.fusion.fusion_config import FusionConfig


class Engine:
    """Answers requests with one model.

    Args:
        model: the model.
        processor: processor of the model.
        num_speculative_tokens: maximum length of n-gram drafts, which one decode step verifies:
            fewer steps, the same answers; 0: no speculative decoding.
        scheduler_config: batch sizes, prefill policy and cache memory; None: the defaults.

    Attributes:
        model: the model.
        processor: processor of the model.
        images: opens, preprocesses and encodes images; has their limits and the encoder cache.
        scheduler: scheduler of all sequences; its metrics may be read at any time.

    Raises:
        MGMError: the processor prepares images for another model, or `num_speculative_tokens` is
            negative.
    """

    def __init__(
        self,
        model: MGMForConditionalGeneration,
        processor: MGMProcessor,
        num_speculative_tokens: int = 0,
        scheduler_config: SchedulerConfig | None = None,
    ) -> None:
        check_match(model.config, processor)
        self.model = model
        self.processor = processor
        self.images = ImageEncoder(model, processor, self._run_soon)
        self._preparer = RequestPreparer(model, processor, self.images)
        self.scheduler = Scheduler(
            model,
            scheduler_config or SchedulerConfig(),
            self._preparer.vocabulary_size,
            num_speculative_tokens,
        )
        self._core = EngineCore(self.scheduler)

    def answer(self, requests: abc.Sequence[Request], batch_size: int = 16) -> list[Answer]:
        """Answer requests, in order; each answer is the same as if it were the only one.

        Args:
            requests: the requests.
            batch_size: how many are prepared and answered together.

        Raises:
            MGMError: an image cannot be opened, or a prompt is too long; says of which request.
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
            streams = self.start_generation(self.prepare(group, labels))
            answers += [stream.wait() for stream in streams]
        return answers

    def stream(self, request: Request) -> Stream:
        """Stream the answer to a request in chunks; joined, they are the text of `answer`.

        Raises:
            MGMError: an image cannot be opened, or the prompt is too long.
        """
        return self.streams([request])[0]

    def streams(self, requests: abc.Sequence[Request]) -> list[Stream]:
        """Answer requests together; their images are encoded as a batch.

        Raises:
            MGMError: an image cannot be opened, or a prompt is too long.
        """
        return self.start_generation(self.prepare(requests))

    def prepare(
        self,
        requests: abc.Sequence[Request],
        labels: abc.Sequence[str] | None = None,
        use_all_cores: bool = False,
    ) -> PreparedRequests:
        """Tokenize prompts, decode and resize images, compile grammars; in any thread.

        Args:
            requests: the requests.
            labels: prefixes of error messages about each; None: none.
            use_all_cores: whether to use all cores, as the model is idle meanwhile; otherwise most
                cores are left to the model.

        Raises:
            MGMError: an image cannot be opened, a prompt is empty or too long, `logit_bias` has a
                token that the model does not have, or `structured_output` cannot be used.
        """
        return self._preparer.prepare(requests, labels, use_all_cores)

    def start_generation(self, prepared: PreparedRequests) -> list[Stream]:
        """Encode the images of prepared requests, and put their sequences into the queue.

        Raises:
            MGMError: the device has too little memory to encode the images.
        """
        sequences = self._preparer.sequences(prepared)
        for request, sequence in zip(prepared.requests, sequences, strict=True):
            self._enqueue(request, sequence)
        return [Stream(self._core, sequence) for sequence in sequences]

    def subscribe(
        self, requests: abc.Sequence[Request], listener: Callable[[int, Chunk], None]
    ) -> list[Stream]:
        """Answer requests together, and pass every chunk to a listener; needs the engine thread.

        Args:
            requests: the requests.
            listener: called with the index of a request and a chunk of its answer, in the engine
                thread, which it must not block; the last chunk has the answer or the error.

        Raises:
            MGMError: an image cannot be opened, or a prompt is too long; none is answered.
        """
        sequences = self._preparer.sequences(self.prepare(requests))
        for index, sequence in enumerate(sequences):
            sequence.listener = partial(listener, index)
        for index, (request, sequence) in enumerate(zip(requests, sequences, strict=True)):
            self._enqueue(request, sequence, index)
        return [Stream(self._core, sequence) for sequence in sequences]

    def _enqueue(self, request: Request, sequence: Sequence, index: int = 0) -> None:
        if request.num_beams == 1:
            self._core.add(sequence, index)
            return
        vocabulary_size = self._preparer.vocabulary_size
        self._core.run(
            partial(beam_search, self.model, sequence, request.num_beams, vocabulary_size)
        )

    def start(self) -> None:
        """Start the engine thread, which runs the model from now on; for servers."""
        self._core.start()

    def stop(self) -> None:
        """Stop the engine thread; unfinished answers fail."""
        if self._core.stop():
            self.images.fail_waiting(MGMError("the engine was stopped"))

    def step(self) -> None:
        """Run one prefill and decode step for all sequences, or wait for the engine thread's."""
        self._core.step()

    def run_in_engine(self, call: Callable[[], Result]) -> Result:
        """Run a call that uses the model between two steps; returns its result."""
        return self._core.run(call)

    def _run_soon(self, call: Callable[[], None]) -> None:
        self._core.run_soon(call)

    def use_template(self, name: str) -> None:
        """Render prompts with the conversation template `name` from now on.

        Raises:
            MGMError: there is no such template; the message lists the names.
        """
        self._preparer.prompts.use_template(name)

    @property
    def template(self) -> ConversationTemplate:
        """The conversation template of prompts."""
        return self._preparer.prompts.template

    def prompt(self, request: Request) -> str:
        """The text of a request's prompt, image markers not expanded."""
        return self._preparer.prompts.text(request)

    @property
    def context_length(self) -> int:
        """Maximum length of a prompt and its answer together."""
        return self._preparer.prompts.context_length

    def remaining_tokens(self, request: Request) -> int:
        """Tokens that a request's prompt leaves for the answer; 0: the prompt is too long."""
        return max(self.context_length - len(self.processor.encode(self.prompt(request))), 0)

    def compile_grammar(self, constraint: StructuredOutput) -> None:
        """Compile a grammar in advance; requests with it find it in the grammar cache.

        Raises:
            MGMError: the constraint is not a valid schema, regular expression or grammar, is too
                complex, or matches nothing, or llguidance is not installed.
            EngineBusyError: compiling others takes too long.
        """
        self._preparer.compile_grammar(constraint)

    def compile_decode(self, **options: Any) -> None:
        """Compile the decode step with torch.compile, which takes up to a minute.

        Args:
            **options: options of `torch.compile`; by default CUDA graphs on a GPU.

        Raises:
            MGMError: torch.compile does not work here.
        """
        self.run_in_engine(partial(self.scheduler.decode_runner.compile, **options))

    @property
    def fusion(self) -> FusionConfig:
        """How the encoders' outputs become image tokens; setting it does not change the config.

        It takes a `FusionConfig`, a dictionary of its fields, or None for that of config.json.
        Encoder cache and prefix cache keep entries of different settings apart.

        Raises:
            MGMError: a field is not valid, the model does not support it, or requests are running.
        """
        return self.model.fusion

    @fusion.setter
    def fusion(self, fusion: FusionConfig | Mapping[str, Any] | None) -> None:
        self.run_in_engine(partial(self._set_fusion, fusion))

    def _set_fusion(self, fusion: FusionConfig | Mapping[str, Any] | None) -> None:
        with self._core.step_lock:
            if self.scheduler.busy:
                raise MGMError("requests are running; set the fusion before or after them")
            self.model.fusion = fusion

    def save_pretrained(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        """Save model, processor and model card in the native layout.

        Args:
            path: the folder; a model in it is replaced when the new one is written completely.
            name: name of the model in its card; None: the folder's name.

        Raises:
            MGMError: the folder could not be written.
        """
        saving.save_pretrained(self.model, self.processor, path, name)

    def push_to_hub(
        self,
        repo_id: str,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload a Mini-Gemini",
    ) -> str:
        """Upload model, processor and model card to a new or existing repository of the HF hub.

        Args:
            repo_id: "owner/name".
            private: whether a new repository is private.
            token: access token with write permission; None: that of the login.
            revision: the branch; None: main.
            commit_message: commit message of the upload.

        Returns:
            The URL of the commit.

        Raises:
            MGMError: the hub refused, or cannot be reached.
        """
        return saving.push_to_hub(
            self.model, self.processor, repo_id, private, token, revision, commit_message
        )

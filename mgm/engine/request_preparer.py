"""Prepares requests: prompts are tokenized, images preprocessed and grammars compiled."""

from collections import abc
from dataclasses import dataclass

from mgm.data.processing_mgm import MGMProcessor
from mgm.data.text.tokenizer import vocabulary_size
from mgm.engine.core.errors import RequestError
from mgm.engine.core.request import Request
from mgm.engine.core.sampler import TokenMask
from mgm.engine.core.sequence import Sequence
from mgm.engine.core.structured_output import StructuredOutput
from mgm.engine.core.token_bytes import TokenBytes
from mgm.engine.grammar.compiler import GrammarCompiler
from mgm.engine.inputs.image_encoder import ImageEncoder, PreparedImage
from mgm.engine.inputs.prompt import PromptBuilder
from mgm.errors import MGMError
from mgm.model.modeling_mgm import MGMForConditionalGeneration


@dataclass(frozen=True)
class PreparedRequests:
    """Preprocessed requests: token ids, images and grammars; the model is not used yet.

    Attributes:
        requests: the requests.
        prompts: token ids of each, image positions expanded.
        images: images of all requests, in order.
        masks: the grammar state of each; None: no structured output.
    """

    requests: abc.Sequence[Request]
    prompts: abc.Sequence[list[int]]
    images: abc.Sequence[PreparedImage]
    masks: abc.Sequence[TokenMask | None]


class RequestPreparer:
    """Turns requests into sequences, in any thread.

    Args:
        model: the model.
        processor: processor of the model.
        images: preprocesses and encodes images.

    Attributes:
        prompts: renders and tokenizes prompts.
        vocabulary_size: only token ids below it are sampled.
    """

    def __init__(
        self, model: MGMForConditionalGeneration, processor: MGMProcessor, images: ImageEncoder
    ) -> None:
        self.prompts = PromptBuilder(model, processor)
        self._images = images
        # Compat: the published loader dropped embeddings that the tokenizer has no token for, such
        # as those that pad a vocabulary; here they are never sampled.
        self.vocabulary_size = vocabulary_size(processor.tokenizer)
        self._token_bytes = TokenBytes(processor.tokenizer)
        self._num_tokens = min(self.vocabulary_size, model.config.text_config.vocab_size)
        self._grammars = GrammarCompiler(self._token_bytes, self._num_tokens)

    def prepare(
        self,
        requests: abc.Sequence[Request],
        labels: abc.Sequence[str] | None = None,
        use_all_cores: bool = False,
    ) -> PreparedRequests:
        """Tokenize prompts, preprocess images and compile grammars; see `Engine.prepare`."""
        labels = [""] * len(requests) if labels is None else labels
        prompts: list[list[int]] = []
        ids_by_text: dict[str, list[int]] = {}  # several samples of a prompt are tokenized once
        for request, label in zip(requests, labels, strict=True):
            text = self.prompts.text(request)
            if text not in ids_by_text:
                ids_by_text[text] = self.prompts.ids(text, len(request.images), label)
            prompts.append(ids_by_text[text])
        sources, image_labels, orientations = [], [], []
        for request, label in zip(requests, labels, strict=True):
            sources += request.images
            count = len(request.images)
            image_labels += [f"{label}image {number} of {count}" for number in range(1, count + 1)]
            orientations += [request.orientation] * count
        masks = [
            self.grammar(request, label) for request, label in zip(requests, labels, strict=True)
        ]
        try:
            images = self._images.prepare(sources, image_labels, use_all_cores, orientations)
        except MGMError as error:
            raise RequestError(error, "images") from error
        return PreparedRequests(requests, prompts, images, masks)

    def grammar(self, request: Request, label: str) -> TokenMask | None:
        """Check a request's `logit_bias`, and compile the grammar of its structured output, if any.

        Raises:
            RequestError: `logit_bias` or `structured_output` cannot be used.
        """
        for token in request.logit_bias:
            if token >= self._num_tokens:
                raise RequestError(
                    f"{label}logit_bias has token {token}, and the model has {self._num_tokens}; "
                    "give token ids of its tokenizer",
                    "logit_bias",
                )
        if request.structured_output is None:
            return None
        try:
            return self.compile_grammar(request.structured_output)
        except RequestError as error:
            raise RequestError(f"{label}{error}", error.field) from error

    def compile_grammar(self, constraint: StructuredOutput) -> TokenMask:
        """Compile a constraint to a grammar in its initial state, or take it from the cache."""
        return self._grammars.compile(constraint, self.prompts.stop_criteria.token_ids)

    def sequences(self, prepared: PreparedRequests) -> list[Sequence]:
        """Encode images, and create a sequence for each request."""
        features = iter(self._images.encode_prepared(prepared.images))
        keys = iter([image.key for image in prepared.images])
        return [
            Sequence(
                request,
                ids,
                self.prompts.cache_keys(ids, [next(keys) for _ in request.images]),
                [next(features) for _ in request.images],
                self._token_bytes,
                self.prompts.stop_criteria_for(request),
                context_budget=self.prompts.context_length - len(ids),
                mask=mask,
            )
            for request, ids, mask in zip(
                prepared.requests, prepared.prompts, prepared.masks, strict=True
            )
        ]

"""Prompt builder: conversation template, tokenization, and cache keys of token positions."""

from collections.abc import Sequence

import numpy as np
import torch

from mgm.data.processing_mgm import MGMProcessor
from mgm.data.text.stop_criteria import StopCriteria, stop_criteria_of
from mgm.data.text.templates import get_template
from mgm.engine.core.errors import ContextLengthError
from mgm.engine.core.request import Request
from mgm.errors import MGMError
from mgm.model.modeling_mgm import MGMForConditionalGeneration


class PromptBuilder:
    """Renders requests with a conversation template, and tokenizes them.

    Args:
        model: the model.
        processor: processor of the model, with the initial template.

    Attributes:
        template: the conversation template.
        stop_criteria: stop tokens and stop strings of the model and the template.
    """

    def __init__(self, model: MGMForConditionalGeneration, processor: MGMProcessor) -> None:
        self._model = model
        self._processor = processor
        self._longest_token = max(map(len, processor.tokenizer.get_vocab()), default=1)
        self.use_template(processor.conversation)

    def use_template(self, name: str) -> None:
        """Render prompts with the conversation template `name` from now on.

        Raises:
            MGMError: there is no such template; the message lists the names.
        """
        model = self._model
        self.template = get_template(name, self._processor.wrap_images)
        self._conversation = name
        self.stop_criteria = stop_criteria_of(
            self._processor.tokenizer,
            self.template,
            model.config.text_config.eos_token_id,
            model.language_model.generation_config.eos_token_id,
            model.generation_config.eos_token_id,
        )

    def stop_criteria_for(self, request: Request) -> StopCriteria:
        """Stop tokens and stop strings of a request, its own included."""
        return StopCriteria(
            self.stop_criteria.token_ids, (*self.stop_criteria.strings, *request.stop)
        )

    def text(self, request: Request) -> str:
        """The text of a request's prompt, image markers not expanded."""
        if request.raw:
            return request.prompt
        return self._processor.prompt(
            request.prompt,
            request.history,
            len(request.images),
            system=request.system,
            conversation=self._conversation,
        )

    def ids(self, text: str, images: int, label: str = "") -> list[int]:
        """A prompt's token ids, image positions expanded.

        Args:
            text: text of the prompt, see `text`.
            images: number of image markers in it, for error messages.
            label: prefix of error messages.

        Raises:
            ContextLengthError: the prompt is longer than the context length.
            MGMError: the prompt is empty, or the model has no embedding for one of its tokens.
        """
        if len(text) > self.context_length * self._longest_token:  # too long, and slow to tokenize
            raise ContextLengthError(
                f"{label}the prompt has {len(text)} characters, and the model's context has "
                f"{self.context_length} tokens; shorten the question or the history"
            )
        ids = self._processor.encode(text)
        if not ids:
            raise MGMError(f"{label}the prompt is empty; give a prompt with text")
        rows = self._model.config.text_config.vocab_size
        for token in set(ids) - {self._processor.image_token_id}:
            if token >= rows:
                name = self._processor.tokenizer.convert_ids_to_tokens(token)
                raise MGMError(
                    f"{label}the prompt contains {name!r}, token {token}, and the model has {rows} "
                    "embeddings: the tokenizer is of another model; use the model's own, or remove "
                    "that text"
                )
        if len(ids) >= self.context_length:
            per_image = self._model.config.image_tokens_per_image
            share = f" ({per_image} for each of its {images} images)" if images else ""
            raise ContextLengthError(
                f"{label}the prompt takes {len(ids)} tokens{share}, and the model's context has "
                f"{self.context_length}; shorten the question or the history, or give fewer images"
            )
        return ids

    def cache_keys(self, ids: Sequence[int], image_keys: Sequence[bytes]) -> np.ndarray:
        """Keys of a prompt's positions in the prefix cache.

        Args:
            ids: token ids of the prompt, which are the keys except at images.
            image_keys: keys of its images; positions of an image get a negative hash of its key.
        """
        token_keys = np.array(ids, dtype=np.int64)
        if image_keys:
            hashes = [-1 - int.from_bytes(key[:7]) for key in image_keys]
            at_image = token_keys == self._processor.image_token_id
            token_keys[at_image] = np.repeat(hashes, self._processor.image_tokens_per_image)
        return token_keys

    @property
    def context_length(self) -> int:
        """Maximum length of a prompt and its output together."""
        config = self._model.config
        return (
            getattr(config.text_config, "max_position_embeddings", None)
            or config.model_max_length
            or torch.iinfo(torch.int32).max
        )

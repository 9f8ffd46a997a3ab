"""Requests to what the language model reads: text, token ids, and names of positions."""

from collections.abc import Sequence

import numpy as np
import torch

from mgm.data.processing_mgm import MGMProcessor
from mgm.data.text.stop_criteria import Stops, stops_of
from mgm.data.text.templates import get_template
from mgm.engine.core.errors import ContextLengthError
from mgm.engine.core.request import Request
from mgm.errors import MGMError
from mgm.model.modeling_mgm import MGMForConditionalGeneration


class PromptWriter:
    """Writes prompts by a conversation template.

    Args:
        model: that reads them.
        processor: its processor, which names the first template.

    Attributes:
        template: how prompts are written.
        stops: what ends the answers to them.
    """

    def __init__(self, model: MGMForConditionalGeneration, processor: MGMProcessor) -> None:
        self._model = model
        self._processor = processor
        self._longest_token = max(map(len, processor.tokenizer.get_vocab()), default=1)
        self.use_template(processor.conversation)

    def use_template(self, name: str) -> None:
        """Write prompts with the conversation template `name` from now on.

        Raises:
            MGMError: there is no such template; the message lists the names.
        """
        model = self._model
        self.template = get_template(name, self._processor.wrap_images)
        self._conversation = name
        self.stops = stops_of(
            self._processor.tokenizer,
            self.template,
            model.config.text_config.eos_token_id,
            model.language_model.generation_config.eos_token_id,
            model.generation_config.eos_token_id,
        )

    def stops_of(self, request: Request) -> Stops:
        """What ends the answer to a request: its own texts, too."""
        return Stops(self.stops.ids, (*self.stops.texts, *request.stop))

    def text(self, request: Request) -> str:
        """The text that the model reads, image markers not expanded."""
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
            text: of the prompt, see `text`.
            images: whose markers are in it.
            label: what errors begin with.

        Raises:
            ContextLengthError: there are more than the model's context has.
            MGMError: there are none, or the model has no embedding for one of them.
        """
        if len(text) > self.context * self._longest_token:  # tokenising it could take minutes
            raise ContextLengthError(
                f"{label}the prompt has {len(text)} characters, and the model's context has "
                f"{self.context} tokens; shorten the question or the history"
            )
        ids = self._processor.encode(text)
        if not ids:
            raise MGMError(f"{label}the prompt is empty; give a text")
        rows = self._model.config.text_config.vocab_size
        for token in set(ids) - {self._processor.image_token_id}:
            if token >= rows:
                text = self._processor.tokenizer.convert_ids_to_tokens(token)
                raise MGMError(
                    f"{label}the prompt holds {text!r}, token {token}, and the model has {rows} "
                    "embeddings; its tokenizer is that of another model, or leave that text out"
                )
        if len(ids) >= self.context:
            per_image = self._model.config.image_tokens_per_image
            share = f" ({per_image} for each of its {images} images)" if images else ""
            raise ContextLengthError(
                f"{label}the prompt takes {len(ids)} tokens{share}, and the model's context has "
                f"{self.context}; shorten the question or the history, or give fewer images"
            )
        return ids

    def names(self, ids: Sequence[int], keys: Sequence[bytes]) -> np.ndarray:
        """Names of a prompt's positions: its ids, but every image has one of its own."""
        names = np.array(ids, dtype=np.int64)
        if keys:
            own = [-1 - int.from_bytes(key[:7]) for key in keys]
            at_image = names == self._processor.image_token_id
            names[at_image] = np.repeat(own, self._processor.image_tokens_per_image)
        return names

    @property
    def context(self) -> int:
        """Positions that a prompt and its answer can take together."""
        config = self._model.config
        return (
            getattr(config.text_config, "max_position_embeddings", None)
            or config.model_max_length
            or torch.iinfo(torch.int32).max
        )

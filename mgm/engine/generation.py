"""Answers while they are being written, one token after the other."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedTokenizerBase

from mgm.data.stops import Stops
from mgm.engine.request import Answer, Request
from mgm.engine.sampler import Sampler, choose
from mgm.engine.text_stream import TextStream
from mgm.model.mgm import MGMForConditionalGeneration


class Generation:
    """One answer in the making.

    Args:
        request: what is asked.
        prompt_ids: the prompt, image positions expanded.
        features: (image tokens, width) of each image of the prompt, in order.
        tokenizer: turns the answer's ids into text.
        stops: what ends the answer.
        room: tokens that the model's context still has after the prompt.
    """

    def __init__(
        self,
        request: Request,
        prompt_ids: list[int],
        features: Sequence[Tensor],
        tokenizer: PreTrainedTokenizerBase,
        stops: Stops,
        room: int,
    ) -> None:
        self.prompt_ids = prompt_ids
        self.features = tuple(features)
        self.tokens: list[int] = []
        self.finish_reason: str | None = None
        self.sampler = Sampler(request.temperature, request.top_p, request.seed)
        self._limit = min(request.max_new_tokens, room)
        self._stop_ids = stops.ids
        self._text = TextStream(tokenizer, stops.texts)

    def push(self, token: int) -> None:
        """Add the next token."""
        if token in self._stop_ids:
            self.finish("stop")
            return
        self.tokens.append(token)
        self._text.push(token)
        if self._text.stopped:
            self.finish("stop")
        elif len(self.tokens) >= self._limit:
            self.finish("length")

    def finish(self, reason: str) -> None:
        """End the answer, unless it has ended."""
        if self.finish_reason is None:
            self.finish_reason = reason
            self._text.finish()
            if self._text.stopped:
                self.finish_reason = "stop"

    def take(self) -> str:
        """The text that became certain since the last call."""
        return self._text.take()

    def answer(self) -> Answer:
        """The answer as far as it is written."""
        return Answer(
            text=self._text.text,
            tokens=tuple(self.tokens),
            finish_reason=self.finish_reason or "cancelled",
            prompt_tokens=len(self.prompt_ids),
        )


class Batch:
    """Several answers that are written together; each `step` gives every one of them a token.

    The first step reads the prompts, padded on the left; every later one reads one token per
    answer. Answers that have ended leave.

    Args:
        model: what answers.
        generations: the answers, none of them begun.
        vocabulary: only ids below it are chosen; None: any that the model has.
    """

    def __init__(
        self,
        model: MGMForConditionalGeneration,
        generations: Sequence[Generation],
        vocabulary: int | None = None,
    ) -> None:
        self.generations = list(generations)  # those that have not ended
        self._model = model
        self._vocabulary = vocabulary
        self._cache = DynamicCache(config=model.config.text_config)
        self._mask: Tensor | None = None  # (batch, positions); None where nothing is padded
        # (batch, 1): positions so far, padding left out
        self._lengths = torch.tensor([[len(row.prompt_ids)] for row in generations])
        self._begun = False

    @torch.inference_mode()
    def step(self) -> None:
        """Give every answer that has not ended its next token."""
        logits = self._read_tokens() if self._begun else self._read_prompts()
        self._begun = True
        samplers = [generation.sampler for generation in self.generations]
        for generation, token in zip(
            self.generations, choose(logits[:, : self._vocabulary], samplers), strict=True
        ):
            generation.push(token)
        self._compact()

    def _read_prompts(self) -> Tensor:
        prompts = [generation.prompt_ids for generation in self.generations]
        device = self._model.device
        longest = max(map(len, prompts))
        padded = [[0] * (longest - len(ids)) + ids for ids in prompts]
        # (batch, longest), negative: padding
        columns = torch.arange(longest) - (longest - self._lengths)
        self._lengths = self._lengths.to(device)
        if min(map(len, prompts)) < longest:
            self._mask = (columns >= 0).long().to(device)
        features = [image for generation in self.generations for image in generation.features]
        output = self._model(
            input_ids=torch.tensor(padded, device=device),
            attention_mask=self._mask,
            position_ids=columns.clamp(min=0).to(device),
            image_features=torch.stack(features) if features else None,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]

    def _read_tokens(self) -> Tensor:
        tokens = [[generation.tokens[-1]] for generation in self.generations]
        if self._mask is not None:
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        # Straight to the language model: there are no images to merge any more.
        output = self._model.language_model(
            input_ids=torch.tensor(tokens, device=self._model.device),
            attention_mask=self._mask,
            position_ids=self._lengths,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._lengths = self._lengths + 1
        return output.logits[:, -1]

    def _compact(self) -> None:
        going = [i for i, row in enumerate(self.generations) if row.finish_reason is None]
        if len(going) == len(self.generations):
            return
        self.generations = [self.generations[i] for i in going]
        if not going:
            return
        rows = torch.tensor(going, device=self._model.device)
        self._cache.batch_select_indices(rows)
        self._lengths = self._lengths[rows]
        if self._mask is not None:
            self._mask = self._mask[rows]

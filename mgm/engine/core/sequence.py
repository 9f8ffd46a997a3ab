"""A sequence: one prompt and the output that is generated for it."""

import time
from collections import abc
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from mgm.data.text.stop_criteria import StopCriteria
from mgm.engine.core.detokenizer import IncrementalDetokenizer, TokenSpan
from mgm.engine.core.device_errors import as_request_error, is_device_error
from mgm.engine.core.request import Answer, Request
from mgm.engine.core.sampler import Sampler, TokenMask
from mgm.engine.core.sampling_params import SampledToken
from mgm.engine.core.token_bytes import TokenBytes
from mgm.errors import MGMError

_CONTEXT_TOKENS = 16  # last tokens of the prompt that a continuation is detokenized with


@dataclass(frozen=True)
class Chunk:
    """New output of a sequence, passed to its listener.

    Attributes:
        text: new text, which later tokens cannot change.
        tokens: new tokens, whose texts joined are `text`.
        answer: the whole output, in the last chunk.
        error: the error of a failed sequence, in the last chunk.
    """

    text: str
    tokens: tuple[SampledToken, ...] = ()
    answer: Answer | None = None
    error: MGMError | None = None

    def __add__(self, later: "Chunk") -> "Chunk":
        """Concatenate two chunks."""
        tokens = (*self.tokens, *later.tokens)
        return Chunk(self.text + later.text, tokens, later.answer, later.error)


class Sequence:
    """One prompt and its output, from the waiting queue to the last token.

    Args:
        request: the request that this sequence belongs to.
        prompt_ids: token ids of the prompt, image positions expanded.
        token_keys: prefix cache keys of the prompt's positions: the token id, and at images a
            hash of the image.
        image_features: (image tokens, width) of each image of the prompt, in order.
        vocabulary: vocabulary for detokenization.
        stop_criteria: stop tokens and stop strings.
        context_budget: tokens that the model's context length leaves after the prompt.
        mask: token mask of structured output; None: all tokens are allowed.

    Attributes:
        output: sampled tokens so far, the stop token left out.
        finish_reason: "stop", "length", "cancelled" or "error"; None: it is not finished.
        error: the error, where the finish reason is "error".
        num_cached_tokens: positions of the prompt that the prefix cache held.
        prefill_alone: whether the prompt is prefilled in a step of its own, since a batch that it
            was part of raised an error.
        queue_rank: rank in the waiting queue; the lowest is prefilled first.
        max_new_tokens: maximum length of the output, in tokens.
        timeout: seconds after which it finishes with "length"; None: no limit.
        stop_ids: token ids that finish it.
        listener: called with every chunk in the engine's thread, and must not block.
    """

    def __init__(
        self,
        request: Request,
        prompt_ids: list[int],
        token_keys: np.ndarray,
        image_features: abc.Sequence[Tensor],
        vocabulary: TokenBytes,
        stop_criteria: StopCriteria,
        context_budget: int,
        mask: TokenMask | None = None,
    ) -> None:
        self.prompt_ids = prompt_ids
        self.token_keys = token_keys
        self.image_features = tuple(image_features)
        self.output: list[SampledToken] = []
        self.finish_reason: str | None = None
        self.error: MGMError | None = None
        self.num_cached_tokens = 0
        self.listener: Callable[[Chunk], None] | None = None
        self.prefill_alone = False
        self.queue_rank = 0
        self.sampler = Sampler(request.sampling_params, prompt_ids, mask)
        self.max_new_tokens = min(request.max_new_tokens, context_budget)
        self.timeout = request.max_seconds
        self._start_time = time.monotonic()
        self.stop_ids = stop_criteria.token_ids
        context = prompt_ids[-_CONTEXT_TOKENS:] if request.continues_text else ()
        self._detokenizer = IncrementalDetokenizer(
            vocabulary, stop_criteria.strings, by_bytes=mask is not None, context=context
        )

    @property
    def output_ids(self) -> list[int]:
        """Token ids of the output."""
        return [one.token for one in self.output]

    @property
    def max_length(self) -> int:
        """Maximum length of prompt and output together."""
        return len(self.prompt_ids) + self.max_new_tokens

    def last_ids(self, count: int) -> list[int]:
        """The last token ids of prompt and output."""
        output = [one.token for one in self.output[-count:]]
        return [*self.prompt_ids[-count:], *output][-count:]

    def append_token(self, token: SampledToken) -> None:
        """Append a sampled token; an error while it is processed fails this sequence."""
        try:
            self._append_token(token)
        except Exception as error:
            if is_device_error(error):
                raise
            self.fail(as_request_error(error, "detokenizing"))

    def _append_token(self, token: SampledToken) -> None:
        if token.token in self.stop_ids:
            self.finish("stop")
            return
        if token.top_logprobs:
            texts = [self._detokenizer.candidate(one.token) for one in token.top_logprobs]
            top_logprobs = [
                one._replace(text=part.text, utf8=part.utf8)
                for one, part in zip(token.top_logprobs, texts, strict=True)
            ]
            token = replace(token, top_logprobs=tuple(top_logprobs))
        self.output.append(token)
        self._detokenizer.append(token.token)
        mask = self.sampler.mask
        if self._detokenizer.stopped or (mask is not None and mask.complete):
            self.finish("stop")
        elif len(self.output) >= self.max_new_tokens or self.timed_out:
            self.finish("length")

    @property
    def timed_out(self) -> bool:
        """Whether the time limit of the request has passed."""
        return self.timeout is not None and time.monotonic() - self._start_time > self.timeout

    def finish(self, reason: str) -> None:
        """Finish the sequence, unless it is finished; an error meanwhile becomes its error."""
        if self.finish_reason is not None:
            return
        self.finish_reason = reason
        try:
            self._detokenizer.finish()
        except Exception as error:  # noqa: BLE001  it concerns this sequence alone
            self.error = self.error or as_request_error(error, "detokenizing")
        if self.error is not None:
            self.finish_reason = "error"
        elif self._detokenizer.stopped:
            self.finish_reason = "stop"
        self.notify()

    def notify(self) -> None:
        """Pass new output to the listener, if there is one; if that raises, the sequence fails."""
        listener = self.listener
        if listener is None:
            return
        finished = self.finish_reason is not None
        if finished:
            self.listener = None  # no more chunks after the last one, passed below
        try:
            first = self._detokenizer.num_popped_tokens
            text = self.pop_text()
            tokens = tuple(self._tokens_with_text(first, self._detokenizer.num_popped_tokens))
            answer = self.answer() if finished and self.error is None else None
            listener(Chunk(text, tokens, answer, self.error if finished else None))
        except Exception as error:  # noqa: BLE001  it concerns this sequence alone
            self.listener = None
            if not finished:
                self.fail(as_request_error(error, "streaming its output"))

    def fail(self, error: MGMError) -> None:
        """Finish the sequence with an error, unless it is finished."""
        if self.finish_reason is None:
            self.error = error
            self.finish("error")

    def pop_text(self) -> str:
        """Text since the last call that later tokens cannot change."""
        return self._detokenizer.pop_text()

    def _tokens_with_text(self, first: int, end: int) -> list[SampledToken]:
        """Output tokens with their texts, without those of a stop string and after it."""
        spans = self._detokenizer.spans(first, end)
        return list(map(_with_text, self.output[first:end][: len(spans)], spans))

    def answer(self) -> Answer:
        """The output so far.

        Raises:
            MGMError: the sequence has failed.
        """
        if self.error is not None:
            raise self.error
        return Answer(
            text=self._detokenizer.text,
            tokens=tuple(self.output_ids),
            finish_reason=self.finish_reason or "cancelled",
            prompt_tokens=len(self.prompt_ids),
            cached_tokens=self.num_cached_tokens,
            sampled_tokens=tuple(self._tokens_with_text(0, len(self.output))),
        )


def _with_text(token: SampledToken, span: TokenSpan) -> SampledToken:
    """A token with its part of the text, in its top log-probabilities too."""
    text, utf8 = span.part
    top_logprobs = tuple(
        one._replace(text=text, utf8=utf8) if one.token == token.token else one
        for one in token.top_logprobs
    )
    return replace(token, top_logprobs=top_logprobs, text=text, utf8=utf8, offset=span.start)

"""One answer while it is being written."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from mgm.data.text.stop_criteria import Stops
from mgm.engine.core.detokenizer import IncrementalDetokenizer, TokenSpan
from mgm.engine.core.faults import as_fault, is_device_fault
from mgm.engine.core.request import Answer, Request
from mgm.engine.core.sampler import Sampler, TokenMask
from mgm.engine.core.sampling import Choice
from mgm.engine.core.token_bytes import TokenBytes
from mgm.errors import MGMError

_CONTEXT = 16  # ids of a prompt that its continuation is decoded with


@dataclass(frozen=True)
class Piece:
    """A part of an answer, as a listener gets it.

    Attributes:
        text: that became certain.
        choices: its tokens, whose texts joined are `text`.
        answer: all of it, with the last piece.
        fault: why there is no answer, with the last piece.
    """

    text: str
    choices: tuple[Choice, ...] = ()
    answer: Answer | None = None
    fault: MGMError | None = None

    def __add__(self, later: "Piece") -> "Piece":
        """Both as one."""
        choices = (*self.choices, *later.choices)
        return Piece(self.text + later.text, choices, later.answer, later.fault)


class Generation:
    """One answer in the making.

    Args:
        request: what is asked.
        prompt_ids: the prompt, image positions expanded.
        names: of the prompt's positions, as its ids, but those of an image are that image's own.
        features: (image tokens, width) of each image of the prompt, in order.
        vocabulary: turns the answer's ids into text.
        stops: what ends the answer.
        room: tokens that the model's context still has after the prompt.
        mask: the grammar of structured output; None: any token may come.

    Attributes:
        prefill_alone: whether the prompt is prefilled without others beside it: one of those it
            was prefilled with before raised an error.
        rank: in the queue; the lowest is prefilled first.
        limit: tokens of the answer, at most.
        seconds: after which it ends; None: whenever it does.
        stop_ids: tokens that end it.
        listener: gets every piece from the thread that writes, and must not wait.
    """

    def __init__(
        self,
        request: Request,
        prompt_ids: list[int],
        names: np.ndarray,
        features: Sequence[Tensor],
        vocabulary: TokenBytes,
        stops: Stops,
        room: int,
        mask: TokenMask | None = None,
    ) -> None:
        self.prompt_ids = prompt_ids
        self.names = names
        self.features = tuple(features)
        self.choices: list[Choice] = []
        self.finish_reason: str | None = None
        self.fault: MGMError | None = None  # why it could not go on
        self.cached = 0  # positions of the prompt that were known already
        self.listener: Callable[[Piece], None] | None = None
        self.prefill_alone = False
        self.rank = 0
        self.sampler = Sampler(request.sampling, prompt_ids, mask)
        self.limit = min(request.max_new_tokens, room)
        self.seconds = request.max_seconds
        self._begun = time.monotonic()
        self.stop_ids = stops.ids
        context = prompt_ids[-_CONTEXT:] if request.continues_text else ()
        self._text = IncrementalDetokenizer(
            vocabulary, stops.texts, by_bytes=mask is not None, context=context
        )

    @property
    def tokens(self) -> list[int]:
        """The answer's token ids."""
        return [choice.token for choice in self.choices]

    def last(self, count: int) -> list[int]:
        """The last ids of the prompt and the answer."""
        tokens = [choice.token for choice in self.choices[-count:]]
        return [*self.prompt_ids[-count:], *tokens][-count:]

    def push(self, choice: Choice) -> None:
        """Add the next token. What is raised ends this answer."""
        try:
            self._push(choice)
        except Exception as error:
            if is_device_fault(error):
                raise
            self.fail(as_fault(error, "turning tokens into text"))

    def _push(self, choice: Choice) -> None:
        if choice.token in self.stop_ids:
            self.finish("stop")
            return
        if choice.likeliest:
            texts = [self._text.candidate(one.token) for one in choice.likeliest]
            likeliest = [
                one._replace(text=part.text, utf8=part.utf8)
                for one, part in zip(choice.likeliest, texts, strict=True)
            ]
            choice = replace(choice, likeliest=tuple(likeliest))
        self.choices.append(choice)
        self._text.push(choice.token)
        mask = self.sampler.mask
        if self._text.stopped or (mask is not None and mask.complete):
            self.finish("stop")
        elif len(self.choices) >= self.limit or self.late:
            self.finish("length")

    @property
    def late(self) -> bool:
        """Whether its time is over."""
        return self.seconds is not None and time.monotonic() - self._begun > self.seconds

    def finish(self, reason: str) -> None:
        """End the answer, unless it has ended. What is raised ends it with an error."""
        if self.finish_reason is not None:
            return
        self.finish_reason = reason
        try:
            self._text.finish()
        except Exception as error:  # noqa: BLE001  it is this answer's
            self.fault = self.fault or as_fault(error, "turning tokens into text")
        if self.fault is not None:
            self.finish_reason = "error"
        elif self._text.stopped:
            self.finish_reason = "stop"
        self.tell()

    def tell(self) -> None:
        """Give the listener, if there is one, what is new; if it raises, the answer ends."""
        listener = self.listener
        if listener is None:
            return
        ended = self.finish_reason is not None
        if ended:
            self.listener = None  # this is the last piece
        try:
            first = self._text.taken_tokens
            text = self.take()
            chosen = tuple(self._described(first, self._text.taken_tokens))
            answer = self.answer() if ended and self.fault is None else None
            listener(Piece(text, chosen, answer, self.fault if ended else None))
        except Exception as error:  # noqa: BLE001  it is this answer's
            self.listener = None
            if not ended:
                self.fail(as_fault(error, "passing an answer on"))

    def fail(self, fault: MGMError) -> None:
        """End the answer with a fault, unless it has ended."""
        if self.finish_reason is None:
            self.fault = fault
            self.finish("error")

    def take(self) -> str:
        """The text that became certain since the last call."""
        return self._text.take()

    def _described(self, first: int, end: int) -> list[Choice]:
        """Tokens, with what they are of the text; those of a stop text and behind it left out."""
        spans = self._text.spans(first, end)
        return list(map(_with_text, self.choices[first:end][: len(spans)], spans))

    def answer(self) -> Answer:
        """The answer as far as it is written.

        Raises:
            MGMError: it could not be written.
        """
        if self.fault is not None:
            raise self.fault
        return Answer(
            text=self._text.text,
            tokens=tuple(self.tokens),
            finish_reason=self.finish_reason or "cancelled",
            prompt_tokens=len(self.prompt_ids),
            cached_tokens=self.cached,
            choices=tuple(self._described(0, len(self.choices))),
        )


def _with_text(choice: Choice, span: TokenSpan) -> Choice:
    """A token with what it is of the text, among its likeliest too."""
    likeliest = tuple(
        one._replace(text=span.part.text, utf8=span.part.utf8) if one.token == choice.token else one
        for one in choice.likeliest
    )
    text, utf8 = span.part
    return replace(choice, likeliest=likeliest, text=text, utf8=utf8, offset=span.start)

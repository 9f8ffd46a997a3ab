"""One answer while it is being written."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mgm.data.text.stop_criteria import Stops
from mgm.engine.core.detokenizer import TextStream
from mgm.engine.core.request import Answer, Request
from mgm.engine.core.sampler import Choice, Sampler
from mgm.errors import MGMError


@dataclass(frozen=True)
class Piece:
    """A part of an answer, as a listener gets it.

    Attributes:
        text: that became certain.
        choices: tokens that were chosen since the piece before.
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
        tokenizer: turns the answer's ids into text.
        stops: what ends the answer.
        room: tokens that the model's context still has after the prompt.

    Attributes:
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
        tokenizer: PreTrainedTokenizerBase,
        stops: Stops,
        room: int,
    ) -> None:
        self.prompt_ids = prompt_ids
        self.names = names
        self.features = tuple(features)
        self.choices: list[Choice] = []
        self.finish_reason: str | None = None
        self.fault: MGMError | None = None  # why it could not go on
        self.cached = 0  # positions of the prompt that were known already
        self.listener: Callable[[Piece], None] | None = None
        self._told = 0  # tokens that the listener knows
        self.sampler = Sampler(request.sampling, prompt_ids)
        self.limit = min(request.max_new_tokens, room)
        self.seconds = request.max_seconds
        self._begun = time.monotonic()
        self.stop_ids = stops.ids
        self._text = TextStream(tokenizer, stops.texts)

    @property
    def tokens(self) -> list[int]:
        """The answer's token ids."""
        return [choice.token for choice in self.choices]

    def last(self, count: int) -> list[int]:
        """The last ids of the prompt and the answer."""
        tokens = [choice.token for choice in self.choices[-count:]]
        return [*self.prompt_ids[-count:], *tokens][-count:]

    def push(self, choice: Choice) -> None:
        """Add the next token."""
        if choice.token in self.stop_ids:
            self.finish("stop")
            return
        self.choices.append(choice)
        self._text.push(choice.token)
        if self._text.stopped:
            self.finish("stop")
        elif len(self.choices) >= self.limit or self.late:
            self.finish("length")

    @property
    def late(self) -> bool:
        """Whether its time is over."""
        return self.seconds is not None and time.monotonic() - self._begun > self.seconds

    def finish(self, reason: str) -> None:
        """End the answer, unless it has ended."""
        if self.finish_reason is None:
            self.finish_reason = reason
            self._text.finish()
            if self._text.stopped:
                self.finish_reason = "stop"
            self.tell()

    def tell(self) -> None:
        """Give the listener, if there is one, what is new."""
        listener = self.listener
        if listener is None:
            return
        chosen = tuple(self.choices[self._told :])
        self._told += len(chosen)
        if self.finish_reason is None:
            listener(Piece(self.take(), chosen))
            return
        self.listener = None  # this is the last piece
        answer = self.answer() if self.fault is None else None
        listener(Piece(self.take(), chosen, answer, self.fault))

    def fail(self, fault: MGMError) -> None:
        """End the answer with a fault."""
        self.fault = fault
        self.finish("error")

    def take(self) -> str:
        """The text that became certain since the last call."""
        return self._text.take()

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
            choices=tuple(self.choices),
        )

"""A multi-turn conversation about images, with a context window that drops old turns."""

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from PIL import Image

from mgm.data.text.templates import IMAGE_MARKER
from mgm.engine.core.request import Request
from mgm.errors import MGMError

if TYPE_CHECKING:
    from mgm.engine.engine import Engine

# A model may have learned to write escape sequences, which a terminal would execute.
TERMINAL_CONTROLS = dict.fromkeys({*range(32), *range(127, 160)} - {ord("\n"), ord("\t")})

RESPONSE_SHARE = 4  # up to 1/4 of the context is reserved for the response


class Chat:
    """A multi-turn conversation about some images.

    Args:
        engine: generates the answers.
        images: images of the conversation, sent with the first question.
        settings: a request with the sampling settings.
        report: shows a message to the user.
        suffix: appended to every question.

    Attributes:
        details: prompt, token counts and timings of the last answer, as two lines.
    """

    def __init__(
        self,
        engine: "Engine",
        images: Sequence[Image.Image],
        settings: Request,
        report: Callable[[str], None],
        suffix: str = "",
    ) -> None:
        self._suffix = suffix
        self._engine = engine
        self._images = images
        self._settings = settings
        self._report = report
        self.details = ""
        self._history: list[tuple[str, str]] = []

    @property
    def history(self) -> list[tuple[str, str]]:
        """Questions and answers so far."""
        return list(self._history)

    def ask(self, question: str) -> Generator[str, None, None]:
        """Stream the answer; the part that was read is added to the history.

        If the conversation is too long for the context, the oldest turns are dropped; the first
        one, which has the images, stays.

        Raises:
            MGMError: the question is invalid, or generation fails, also while streaming; the
                history stays as it was.
        """
        self._check_markers(question)
        question += self._suffix
        request = self._request(question, self._history)
        required = min(request.max_new_tokens, self._engine.context_length // RESPONSE_SHARE)
        while request.history and self._engine.remaining_tokens(request) < required:
            first, *rest = request.history
            request = self._request(question, [first, *rest[1:]] if rest else [])
        dropped = len(self._history) - len(request.history)
        if dropped and self._engine.remaining_tokens(request):
            turns = "1 earlier turn" if dropped == 1 else f"{dropped} earlier turns"
            self._report(f"the conversation exceeds the model's context; dropped {turns}")
        return self._stream(request)

    def _request(self, question: str, history: Sequence[tuple[str, str]]) -> Request:
        return replace(self._settings, prompt=question, images=self._images, history=history)

    def _check_markers(self, question: str) -> None:
        markers = question.count(IMAGE_MARKER)
        if markers and self._history:
            raise MGMError(f"{IMAGE_MARKER} is possible in the first question only")
        if markers and not self._images:
            raise MGMError(f"the question has {IMAGE_MARKER}, but there is no image; leave it out")
        if markers and markers != len(self._images):
            images = f"{len(self._images)} image{'s' * (len(self._images) != 1)}"
            raise MGMError(
                f"the question has {markers} {IMAGE_MARKER} for {images}; "
                "write as many, or none to put the images first"
            )

    def _stream(self, request: Request) -> Generator[str, None, None]:
        start_time = time.perf_counter()
        first_text_time = None  # seconds
        stream = self._engine.stream(request)
        try:
            for text in stream:
                first_text_time = first_text_time or time.perf_counter() - start_time
                yield text.translate(TERMINAL_CONTROLS)
        finally:
            stream.close()
            answer = stream.answer
            self._history = list(request.history)
            text = answer.text.replace(IMAGE_MARKER, "").strip()  # a marker needs an image
            if text:
                self._history.append((request.prompt, text))
            seconds = time.perf_counter() - start_time
            self.details = (
                f"prompt: {self._engine.prompt(request)!r}\n"
                f"prompt tokens: {answer.prompt_tokens}, answer tokens: {len(answer.tokens)} "
                f"({answer.finish_reason}), time to first token: "
                f"{first_text_time or seconds:.2f} s, total: {seconds:.2f} s"
            )

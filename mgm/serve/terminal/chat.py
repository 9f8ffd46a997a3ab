"""A conversation about some images."""

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace

from PIL import Image

from mgm.data.text.templates import IMAGE_MARKER
from mgm.engine.core.request import Request
from mgm.engine.engine import Engine
from mgm.errors import MGMError

# A model may have learned to write them, but a terminal obeys them.
CONTROL_CHARACTERS = dict.fromkeys({*range(32), *range(127, 160)} - {ord("\n"), ord("\t")})

ANSWER_SHARE = 4  # an answer may need as much as a fourth of the context


class Chat:
    """A conversation about some images.

    Args:
        engine: answers.
        images: what it is about.
        settings: a request that says how to answer.
        report: is told what the user should know besides the answers.
        suffix: stands behind every question.

    Attributes:
        details: two lines, of prompt and of token counts and times of the last answer.
    """

    def __init__(
        self,
        engine: Engine,
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
        """The answer, piece by piece; what was read of it belongs to the conversation.

        Where the conversation has become too long for the model, the oldest exchanges after the
        first, which carries the images, are forgotten.

        Raises:
            MGMError: it cannot be answered, and the conversation goes on without it. Pieces raise
                it, too.
        """
        self._check_markers(question)
        question += self._suffix
        request = self._request(question, self._history)
        enough = min(request.max_new_tokens, self._engine.context // ANSWER_SHARE)
        while request.history and self._engine.room(request) < enough:
            first, *rest = request.history
            request = self._request(question, [first, *rest[1:]] if rest else [])
        forgotten = len(self._history) - len(request.history)
        if forgotten and self._engine.room(request):
            exchanges = "1 earlier exchange" if forgotten == 1 else f"{forgotten} earlier exchanges"
            self._report(
                f"the conversation became too long for the model, which forgot {exchanges}"
            )
        return self._answer(request)

    def _request(self, question: str, history: Sequence[tuple[str, str]]) -> Request:
        return replace(self._settings, prompt=question, images=self._images, history=history)

    def _check_markers(self, question: str) -> None:
        markers = question.count(IMAGE_MARKER)
        if markers and self._history:
            raise MGMError(f"{IMAGE_MARKER} places an image, which only the first question can do")
        if markers and not self._images:
            raise MGMError(f"the question has {IMAGE_MARKER}, but there is no image; leave it out")
        if markers and markers != len(self._images):
            images = f"{len(self._images)} image{'s' * (len(self._images) != 1)}"
            raise MGMError(
                f"the question has {markers} {IMAGE_MARKER} for {images}; "
                "write as many, or none to put the images first"
            )

    def _answer(self, request: Request) -> Generator[str, None, None]:
        started = time.perf_counter()
        first = None
        stream = self._engine.stream(request)
        try:
            for piece in stream:
                first = first or time.perf_counter() - started
                yield piece.translate(CONTROL_CHARACTERS)
        finally:
            stream.close()
            answer = stream.answer
            self._history = list(request.history)
            text = answer.text.replace(IMAGE_MARKER, "").strip()  # an answer places no image
            if text:
                self._history.append((request.prompt, text))
            seconds = time.perf_counter() - started
            self.details = (
                f"prompt: {self._engine.prompt(request)!r}\n"
                f"prompt tokens: {answer.prompt_tokens}, answer tokens: {len(answer.tokens)} "
                f"({answer.finish_reason}), first text after {first or seconds:.2f} s, "
                f"all after {seconds:.2f} s"
            )

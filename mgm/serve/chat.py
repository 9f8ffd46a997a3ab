"""A conversation about some images."""

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace

from PIL import Image

from mgm.engine.engine import Engine
from mgm.engine.request import Request

# A model may have learned to write them, but a terminal obeys them.
CONTROL_CHARACTERS = dict.fromkeys({*range(32), *range(127, 160)} - {ord("\n"), ord("\t")})


class Chat:
    """A conversation about some images.

    Args:
        engine: answers.
        images: what it is about.
        settings: a request that says how to answer.
        report: is told prompts, token counts and times.
    """

    def __init__(
        self,
        engine: Engine,
        images: Sequence[Image.Image],
        settings: Request,
        report: Callable[[str], None] | None = None,
    ) -> None:
        self._engine = engine
        self._images = images
        self._settings = settings
        self._report = report
        self._history: list[tuple[str, str]] = []

    def ask(self, question: str) -> Generator[str, None, None]:
        """The answer, piece by piece; what was read of it belongs to the conversation.

        Raises:
            MGMError: it cannot be answered, and the conversation goes on without it.
        """
        request = replace(
            self._settings, prompt=question, images=self._images, history=self._history
        )
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
            if answer.text.strip():
                self._history.append((question, answer.text.strip()))
            if self._report is not None:
                seconds = time.perf_counter() - started
                self._report(f"prompt: {self._engine.prompt(request)!r}")
                self._report(
                    f"prompt tokens: {answer.prompt_tokens}, answer tokens: {len(answer.tokens)} "
                    f"({answer.finish_reason}), first text after {first or seconds:.2f} s, "
                    f"all after {seconds:.2f} s"
                )

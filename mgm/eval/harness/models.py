"""Who answers: the engine in this process, or a server that speaks as OpenAI's."""

import base64
import io
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from mgm.data.images.decoding import notes_turn
from mgm.data.images.loading import ImageSource, image_file, open_image
from mgm.engine.core.request import Answer, Request
from mgm.engine.engine import Engine, PreparedRequests, Stream
from mgm.errors import MGMError
from mgm.eval.harness.openai_client import Endpoint
from mgm.eval.harness.question import Answered, Question

PIECE = 1024  # positions that are read at once: nobody waits for the next word
Name = TypeVar("Name", bound=Hashable)


class Answerer(ABC):
    """Answers questions, greedily."""

    @abstractmethod
    def answers(self, questions: Iterable[Question]) -> Iterator[Answered]:
        """Answers as they come, which may be in another order.

        Raises:
            MGMError: a question cannot be answered; names it.
        """


class EngineAnswerer(Answerer):
    """The engine: as many at once as fit, questions join as others are answered.

    Args:
        engine: of a model.
        batch_size: answers that are written at once.

    Attributes:
        engine: of a model.
    """

    def __init__(self, engine: Engine, batch_size: int) -> None:
        self.engine = engine
        self._batch_size = batch_size

    def answers(self, questions: Iterable[Question]) -> Iterator[Answered]:
        """See `Answerer`."""
        waiting: dict[str, Question] = {}

        def asked() -> Iterator[tuple[str, Request]]:
            for one in questions:
                waiting[one.id] = one
                yield (
                    one.id,
                    Request(
                        one.text,
                        images=list(one.images),
                        max_new_tokens=one.max_new_tokens,
                        system=one.system,
                        orientation=one.orientation,
                    ),
                )

        for name, answer in answer_all(self.engine, asked(), self._batch_size):
            yield Answered(waiting.pop(name), answer.text.strip())


def answer_all(
    engine: Engine,
    requests: Iterable[tuple[Name, Request]],
    batch_size: int,
    ahead: bool | None = None,
) -> Iterator[tuple[Name, Answer]]:
    """Answers as they come; requests join as others are answered.

    Args:
        engine: of a model.
        requests: each with a name of its own.
        batch_size: answers that are written at once.
        ahead: whether images are read and resized while others are answered; None: where a GPU
            answers. A CPU that computes with all its cores does either faster alone.

    Raises:
        MGMError: one cannot be answered; names it.
    """
    scheduler = engine.scheduler
    scheduler.rows, scheduler.prompts_first, scheduler.reader.piece = batch_size, True, PIECE
    scheduler.keeps_answers = False  # no question goes on from another's answer
    running: dict[Name, Stream] = {}
    left = iter(requests)

    ahead = engine.model.device.type != "cpu" if ahead is None else ahead

    def prepared() -> tuple[list[Name], PreparedRequests]:
        group = list(islice(left, batch_size))
        names = [name for name, _ in group]
        labels = [f"question {name}: " for name in names]
        return names, engine.prepare([request for _, request in group], labels, alone=not ahead)

    # Requests begin in groups: encoders see several images at once, and no row waits for the next.
    with ThreadPoolExecutor(1, "ahead") as pool:
        coming = pool.submit(prepared) if ahead else None
        while True:
            if len(running) < batch_size:
                names, group = coming.result() if coming else prepared()
                running |= zip(names, engine.begin(group), strict=True)
                if coming and names:
                    coming = pool.submit(prepared)
            if not running:
                return
            with engine.turn:
                engine.go_on()
            for name in [name for name, stream in running.items() if _ended(stream, name)]:
                yield name, running.pop(name).answer


def _ended(stream: Stream, name: object) -> bool:
    try:
        return stream.ended
    except MGMError as error:
        raise MGMError(f"question {name}: {error}") from error


class EndpointAnswerer(Answerer):
    """A server with the OpenAI API.

    Args:
        url: of it, such as http://localhost:10000/v1.
        model: its name there.
        concurrency: questions at once.
        key: that it asks for; None: that in OPENAI_API_KEY, if there is one.
        wait: seconds before the second try; doubled before each further one.
    """

    def __init__(
        self, url: str, model: str, concurrency: int, key: str | None = None, wait: float = 1.0
    ) -> None:
        self._endpoint = Endpoint(url, url, key, wait)
        self._model, self._concurrency = model, concurrency

    def answers(self, questions: Iterable[Question]) -> Iterator[Answered]:
        """See `Answerer`."""
        with ThreadPoolExecutor(self._concurrency) as pool:
            waiting: set[Future[Answered]] = set()
            try:
                for question in questions:
                    waiting.add(pool.submit(self._answer, question))
                    if len(waiting) >= 2 * self._concurrency:
                        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                        yield from (one.result() for one in done)
                while waiting:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (one.result() for one in done)
            finally:
                self._endpoint.stop()
                for one in waiting:
                    one.cancel()

    def _answer(self, question: Question) -> Answered:
        parts = [
            {"type": "image_url", "image_url": {"url": _data_url(image, question)}}
            for image in question.images
        ]
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": [*parts, {"type": "text", "text": question.text}]}
        ]
        if question.system is not None:
            messages.insert(0, {"role": "system", "content": question.system})
        body = {
            "model": self._model,
            "messages": messages,
            "temperature": 0,
            "max_tokens": question.max_new_tokens,
        }
        try:
            return Answered(question, self._endpoint.complete(body)[0].strip())
        except MGMError as error:
            raise MGMError(f"question {question.id}: {error}") from error


def _data_url(image: ImageSource, question: Question) -> str:
    """An image as a URL that holds it: a file as it is, unless the server could turn it."""
    label = f"question {question.id}"
    if isinstance(image, bytes | str | Path):
        content, name = image_file(image, label)
        if not notes_turn(content, name):
            return _url_of(content)
    file = io.BytesIO()
    open_image(image, label, question.orientation).save(file, "PNG")
    return _url_of(file.getvalue())


def _url_of(content: bytes) -> str:
    return f"data:application/octet-stream;base64,{base64.b64encode(content).decode()}"

"""Who answers: the engine in this process, or a server that speaks as OpenAI's."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from mgm.engine.core.request import Answer, Request
from mgm.errors import MGMError
from mgm.eval.harness.chat_request import chat_request
from mgm.eval.harness.openai_client import TIMEOUT, Endpoint, EndpointUnavailableError
from mgm.eval.harness.question import Answered, Question, SkippedQuestion

if TYPE_CHECKING:
    from mgm.engine.engine import Engine, PreparedRequests, Stream

Name = TypeVar("Name", bound=Hashable)


class Answerer(ABC):
    """Answers questions, greedily."""

    @abstractmethod
    def answers(self, questions: Iterable[Question]) -> Iterator[Answered | SkippedQuestion]:
        """Answers as they come, which may be in another order.

        A question that cannot be answered, such as one whose image is broken, is skipped.

        Raises:
            MGMError: no question can be answered any more.
        """


class EngineAnswerer(Answerer):
    """The engine: as many at once as fit, questions join as others are answered.

    Args:
        engine: of a model.
        batch_size: answers that are written at once.

    Attributes:
        engine: of a model.
    """

    def __init__(self, engine: "Engine", batch_size: int) -> None:
        self.engine = engine
        self._batch_size = batch_size

    def answers(self, questions: Iterable[Question]) -> Iterator[Answered | SkippedQuestion]:
        """See `Answerer`."""
        waiting: dict[str, Question] = {}
        faults: list[tuple[str, MGMError]] = []

        def asked() -> Iterator[tuple[str, Request]]:
            for one in questions:
                try:
                    request = _request(one)
                except MGMError as error:
                    faults.append((one.id, error))
                else:
                    waiting[one.id] = one
                    yield one.id, request

        answers = answer_all(
            self.engine, asked(), self._batch_size, on_fault=lambda *fault: faults.append(fault)
        )
        for name, answer in answers:
            counts = answer.prompt_tokens, len(answer.tokens)
            text = answer.text.strip()
            yield Answered(waiting.pop(name), text, answer.finish_reason, *counts)
            while faults:
                yield SkippedQuestion(faults[-1][0], str(faults.pop()[1]))
        yield from (SkippedQuestion(name, str(error)) for name, error in faults)


def _request(question: Question) -> Request:
    """What the engine is asked.

    Raises:
        MGMError: it is no request, such as one that marks more images than it has.
    """
    return Request(
        question.text,
        images=list(question.images),
        max_new_tokens=question.max_new_tokens,
        system=question.system,
        orientation=question.orientation,
    )


def answer_all(
    engine: "Engine",
    requests: Iterable[tuple[Name, Request]],
    batch_size: int,
    ahead: bool | None = None,
    on_fault: Callable[[Name, MGMError], None] | None = None,
) -> Iterator[tuple[Name, Answer]]:
    """Answers as they come; requests join as others are answered.

    Args:
        engine: of a model.
        requests: each with a name of its own.
        batch_size: sequences at once; the engine's scheduler config should allow as many.
        ahead: whether images are read and resized while others are answered; None: where a GPU
            answers. A CPU that computes with all its cores does either faster alone.
        on_fault: called for a request that cannot be answered; the others are. None: it raises.

    Raises:
        MGMError: one cannot be answered, and there is no `on_fault`; names it.
    """
    running: dict[Name, Stream] = {}
    left = iter(requests)

    ahead = engine.model.device.type != "cpu" if ahead is None else ahead

    def prepared() -> _Group[Name]:
        group = list(islice(left, batch_size))
        return _prepare(engine, group, not ahead, on_fault is not None)

    # Requests begin in groups: encoders see several images at once, and no row waits for the next.
    with ThreadPoolExecutor(1, "ahead") as pool:
        coming = pool.submit(prepared) if ahead else None
        while True:
            ended = False
            if len(running) < batch_size:
                group = coming.result() if coming else prepared()
                running |= zip(group.names, engine.start_generation(group.requests), strict=True)
                ended = not group.names and not group.faults
                if coming and not ended:
                    coming = pool.submit(prepared)
                for name, error in group.faults:
                    _report(name, error, on_fault)
            if not running:
                if ended:
                    return
                continue
            engine.step()
            yield from _ended(running, on_fault)


def _ended(
    running: "dict[Name, Stream]", on_fault: Callable[[Name, MGMError], None] | None
) -> Iterator[tuple[Name, Answer]]:
    """Take those answers out that are complete, or that a fault has ended."""
    for name, stream in list(running.items()):
        try:
            if not stream.ended:
                continue
        except MGMError as error:
            del running[name]
            _report(name, MGMError(f"question {name}: {error}"), on_fault)
        else:
            yield name, running.pop(name).answer


class _Group(NamedTuple, Generic[Name]):
    """Requests that are prepared, and faults of those that cannot be."""

    names: list[Name]
    requests: "PreparedRequests"
    faults: list[tuple[Name, MGMError]]


def _prepare(
    engine: "Engine", group: Sequence[tuple[Name, Request]], use_all_cores: bool, each: bool
) -> _Group[Name]:
    """Prepare requests together.

    Args:
        engine: that will answer.
        group: requests by their names.
        use_all_cores: see `Engine.prepare`.
        each: whether those that cannot be prepared are left out.

    Raises:
        MGMError: one cannot be prepared, and `each` is not set.
    """

    def together(some: Sequence[tuple[Name, Request]]) -> "PreparedRequests":
        labels = [f"question {name}: " for name, _ in some]
        return engine.prepare([request for _, request in some], labels, use_all_cores)

    try:
        return _Group([name for name, _ in group], together(group), [])
    except MGMError:
        if not each:
            raise
    faults: dict[Name, MGMError] = {}
    for name, request in group:
        try:
            together([(name, request)])
        except MGMError as error:
            faults[name] = error
    good = [(name, request) for name, request in group if name not in faults]
    return _Group([name for name, _ in good], together(good), list(faults.items()))


def _report(name: Name, error: MGMError, on_fault: Callable[[Name, MGMError], None] | None) -> None:
    if on_fault is None:
        raise error
    on_fault(name, error)


class EndpointAnswerer(Answerer):
    """A server with the OpenAI API.

    Args:
        url: of it, such as http://localhost:10000/v1.
        model: its name there.
        concurrency: questions at once.
        key: that it asks for; None: that in OPENAI_API_KEY, if there is one.
        wait: seconds before the second try; doubled before each further one.
        timeout: seconds for one reply.

    Raises:
        MGMError: the address is none.
    """

    def __init__(
        self,
        url: str,
        model: str,
        concurrency: int,
        key: str | None = None,
        wait: float = 1.0,
        timeout: float = TIMEOUT,
    ) -> None:
        self._endpoint = Endpoint(url, url, key, wait, timeout)
        self._model, self._concurrency = model, concurrency

    def answers(self, questions: Iterable[Question]) -> Iterator[Answered | SkippedQuestion]:
        """See `Answerer`."""
        with ThreadPoolExecutor(self._concurrency) as pool:
            waiting: set[Future[Answered | SkippedQuestion]] = set()
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

    def _answer(self, question: Question) -> Answered | SkippedQuestion:
        """The server's answer.

        Raises:
            EndpointUnavailableError: the server answers no question.
        """
        try:
            body = chat_request(question, self._model)
        except MGMError as error:
            return SkippedQuestion(question.id, str(error))
        try:
            reply = self._endpoint.complete(body)
        except EndpointUnavailableError:
            raise
        except MGMError as error:
            return SkippedQuestion(question.id, str(error))
        counts = (reply.usage.get(f"{name}_tokens") for name in ("prompt", "completion"))
        sampled = True if "temperature" in reply.omitted else None
        return Answered(
            question, reply.text.strip(), reply.finish_reason or None, *counts, sampled=sampled
        )

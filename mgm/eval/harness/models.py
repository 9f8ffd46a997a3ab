"""Model back ends: the local engine, or an OpenAI-compatible endpoint."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from mgm.engine.core.request import Answer, Request
from mgm.errors import MGMError
from mgm.eval.harness.chat_request import chat_completion_body
from mgm.eval.harness.openai_client import (
    REPLY_TIMEOUT,
    EndpointUnavailableError,
    OpenAIClient,
)
from mgm.eval.harness.question import Question, Response, SkippedQuestion

if TYPE_CHECKING:
    from mgm.engine.engine import Engine, PreparedRequests, Stream

RequestId = TypeVar("RequestId", bound=Hashable)
OnError = Callable[[RequestId, MGMError], None]  # called for a request that failed


class Model(ABC):
    """A model to evaluate; decodes greedily."""

    @abstractmethod
    def generate(self, questions: Iterable[Question]) -> Iterator[Response | SkippedQuestion]:
        """Respond to questions, in order of completion.

        A question without a response, such as one with a broken image, is skipped.

        Raises:
            MGMError: no question can get a response any more.
        """


class EngineModel(Model):
    """The local engine, with continuous batching: questions join as others finish.

    Args:
        engine: engine to run.
        batch_size: maximum number of running sequences.

    Attributes:
        engine: engine to run.
    """

    def __init__(self, engine: "Engine", batch_size: int) -> None:
        self.engine = engine
        self._batch_size = batch_size

    def generate(self, questions: Iterable[Question]) -> Iterator[Response | SkippedQuestion]:
        """Respond to questions with continuous batching; see `Model.generate`."""
        waiting: dict[str, Question] = {}
        failed: list[SkippedQuestion] = []

        def skip(question_id: str, error: MGMError) -> None:
            failed.append(SkippedQuestion(question_id, str(error)))

        def requests() -> Iterator[tuple[str, Request]]:
            for question in questions:
                try:
                    request = _request(question)
                except MGMError as error:
                    skip(question.id, error)
                else:
                    waiting[question.id] = question
                    yield question.id, request

        answers = generate_all(self.engine, requests(), self._batch_size, on_error=skip)
        for question_id, answer in answers:
            counts = answer.prompt_tokens, len(answer.tokens)
            text = answer.text.strip()
            yield Response(waiting.pop(question_id), text, answer.finish_reason, *counts)
            while failed:
                yield failed.pop()
        yield from failed


def _request(question: Question) -> Request:
    """The request of the engine.

    Raises:
        MGMError: invalid, such as more image markers in the text than images.
    """
    return Request(
        question.text,
        images=list(question.images),
        max_new_tokens=question.max_new_tokens,
        system=question.system,
        orientation=question.orientation,
    )


def generate_all(
    engine: "Engine",
    requests: Iterable[tuple[RequestId, Request]],
    batch_size: int,
    ahead: bool | None = None,
    on_error: OnError[RequestId] | None = None,
) -> Iterator[tuple[RequestId, Answer]]:
    """Run requests with continuous batching; yields answers in order of completion.

    Args:
        engine: engine to run.
        requests: requests by unique ids.
        batch_size: maximum number of running sequences, if the engine's scheduler config allows it.
        ahead: preprocess images of the next requests in a thread while others decode; None: on a
            GPU. A CPU, all cores of which compute, is faster with one after the other.
        on_error: called for a failed request, while the others continue; None: the first error
            raises.

    Raises:
        MGMError: a request failed, and there is no `on_error`; names the request.
    """
    running: dict[RequestId, Stream] = {}
    remaining = iter(requests)
    ahead = engine.model.device.type != "cpu" if ahead is None else ahead

    def prepare_next() -> _Batch[RequestId]:
        batch = list(islice(remaining, batch_size))
        return _prepare(engine, batch, not ahead, skip_failed=on_error is not None)

    # Requests start in batches: image encoders run batched, and all prompts are prefilled together.
    with ThreadPoolExecutor(1, "preprocess") as pool:
        upcoming = pool.submit(prepare_next) if ahead else None
        while True:
            exhausted = False
            if len(running) < batch_size:
                batch = upcoming.result() if upcoming else prepare_next()
                running |= zip(batch.ids, engine.start_generation(batch.requests), strict=True)
                exhausted = not batch.ids and not batch.failed
                if upcoming and not exhausted:
                    upcoming = pool.submit(prepare_next)
                for request_id, error in batch.failed:
                    _report(request_id, error, on_error)
            if not running:
                if exhausted:
                    return
                continue
            engine.step()
            yield from _pop_finished(running, on_error)


def _pop_finished(
    running: "dict[RequestId, Stream]", on_error: OnError[RequestId] | None
) -> Iterator[tuple[RequestId, Answer]]:
    """Remove finished and failed requests; yields the answers of the finished ones."""
    for request_id, stream in list(running.items()):
        try:
            if not stream.ended:
                continue
        except MGMError as error:
            del running[request_id]
            _report(request_id, MGMError(f"question {request_id}: {error}"), on_error)
        else:
            yield request_id, running.pop(request_id).answer


class _Batch(NamedTuple, Generic[RequestId]):
    """Preprocessed requests, and the errors of those that failed."""

    ids: list[RequestId]
    requests: "PreparedRequests"
    failed: list[tuple[RequestId, MGMError]]


def _prepare(
    engine: "Engine",
    batch: Sequence[tuple[RequestId, Request]],
    use_all_cores: bool,
    skip_failed: bool,
) -> _Batch[RequestId]:
    """Preprocess a batch of requests.

    Args:
        engine: engine to run.
        batch: requests by their ids.
        use_all_cores: see `Engine.prepare`.
        skip_failed: find the requests that fail and leave them out.

    Raises:
        MGMError: a request failed, and `skip_failed` is not set.
    """

    def prepare(some: Sequence[tuple[RequestId, Request]]) -> "PreparedRequests":
        labels = [f"question {request_id}: " for request_id, _ in some]
        return engine.prepare([request for _, request in some], labels, use_all_cores)

    try:
        return _Batch([request_id for request_id, _ in batch], prepare(batch), [])
    except MGMError:
        if not skip_failed:
            raise
    failed: dict[RequestId, MGMError] = {}
    for request_id, request in batch:
        try:
            prepare([(request_id, request)])
        except MGMError as error:
            failed[request_id] = error
    good = [pair for pair in batch if pair[0] not in failed]
    return _Batch([request_id for request_id, _ in good], prepare(good), list(failed.items()))


def _report(request_id: RequestId, error: MGMError, on_error: OnError[RequestId] | None) -> None:
    if on_error is None:
        raise error
    on_error(request_id, error)


class EndpointModel(Model):
    """A model behind an OpenAI-compatible endpoint.

    Args:
        url: such as http://localhost:10000/v1.
        model: name of the model in requests.
        concurrency: maximum number of concurrent requests.
        key: API key; None: OPENAI_API_KEY, if set.
        wait: seconds before the second attempt; doubled before each further one.
        timeout: seconds for one reply.

    Raises:
        MGMError: invalid address.
    """

    def __init__(
        self,
        url: str,
        model: str,
        concurrency: int,
        key: str | None = None,
        wait: float = 1.0,
        timeout: float = REPLY_TIMEOUT,
    ) -> None:
        self._client = OpenAIClient(url, url, key, wait, timeout)
        self._model, self._concurrency = model, concurrency

    def generate(self, questions: Iterable[Question]) -> Iterator[Response | SkippedQuestion]:
        """Respond to questions with concurrent requests; see `Model.generate`."""
        with ThreadPoolExecutor(self._concurrency) as pool:
            pending: set[Future[Response | SkippedQuestion]] = set()
            try:
                for question in questions:
                    pending.add(pool.submit(self._respond, question))
                    if len(pending) >= 2 * self._concurrency:
                        done, pending = wait(pending, return_when=FIRST_COMPLETED)
                        yield from (future.result() for future in done)
                while pending:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            finally:
                self._client.stop()
                for future in pending:
                    future.cancel()

    def _respond(self, question: Question) -> Response | SkippedQuestion:
        """The server's response.

        Raises:
            EndpointUnavailableError: the server is unavailable for all requests.
        """
        try:
            body = chat_completion_body(question, self._model)
        except MGMError as error:
            return SkippedQuestion(question.id, str(error))
        try:
            completion = self._client.complete(body)
        except EndpointUnavailableError:
            raise
        except MGMError as error:
            return SkippedQuestion(question.id, str(error))
        counts = (completion.usage.get(f"{name}_tokens") for name in ("prompt", "completion"))
        return Response(
            question,
            completion.text.strip(),
            completion.finish_reason or None,
            *counts,
            sampled=True if "temperature" in completion.omitted else None,
        )

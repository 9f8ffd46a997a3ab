"""Event handlers of the Gradio page.

Gradio passes event data first, then the HTTP request, then the values of the input components. The
handlers of chats return updates of the input box, of both chats, and the state, see `render`.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from mgm.data.images.limits import NETWORK_LIMITS
from mgm.data.images.loading import open_image
from mgm.data.images.orientation import UPRIGHT
from mgm.errors import MGMError
from mgm.serve.web.client import GenerationSettings, PageClient
from mgm.serve.web.feedback_log import FeedbackLog
from mgm.serve.web.moderation import Moderator
from mgm.serve.web.state import ChatHistory, ChatState, ChatTurn, chatbot_messages

STOPPED = "stopped"  # shown instead of an answer
RENDER_INTERVAL = 0.05  # seconds between two updates while answers are streamed
VOTES = {True: "upvote", False: "downvote", "Flag": "flag"}  # by value of Gradio's `liked`
Updates = tuple[Any, ...]


class Handlers:
    """Event handlers of the page as a whole.

    Args:
        client: client of the controller.
        log: feedback log.
        models: model names to choose from; None: those served when the page is opened.
        moderator: checks questions; None: no moderation.
    """

    def __init__(
        self,
        client: PageClient,
        log: FeedbackLog,
        models: Sequence[str] | None = None,
        moderator: Moderator | None = None,
    ) -> None:
        self.client, self.log, self.models, self.moderator = client, log, models, moderator

    async def load_page(self, request: gr.Request) -> tuple[Any, Any, Any]:
        """Model choices, and the models selected by the URL's parameters."""
        names = list(self.models) if self.models is not None else await self._fetch_models()
        parameters = dict(request.query_params)
        first, last = (names[0], names[-1]) if names else (None, None)
        model, other = (
            parameters[key] if parameters.get(key) in names else default
            for key, default in (("model", first), ("compare", last))
        )
        return (
            gr.update(choices=names, value=model),
            gr.update(choices=names, value=other),
            "compare" in parameters,
        )

    async def reload_models(self, model: str | None, other: str | None) -> tuple[Any, Any]:
        """Reload the list of models that are served; the selection is kept where possible."""
        names = await self._fetch_models()
        if self.models is not None:
            self.models = names
        first = names[0] if names else None
        values = [one if one in names else first for one in (model, other)]
        return gr.update(choices=names, value=values[0]), gr.update(choices=names, value=values[1])

    async def submit(
        self,
        request: gr.Request,
        message: dict[str, Any],
        state: ChatState,
        compare: bool,
        model: str | None,
        other: str | None,
        *settings: Any,
    ) -> AsyncGenerator[Updates]:
        """Send a question to one model, or to two."""
        question = (message.get("text") or "").strip()
        images = tuple(Path(file) for file in message.get("files") or ())
        models = [model, other] if compare else [model]
        try:
            if state.is_generating:
                raise MGMError("An answer is being generated; stop it first.")
            await self.check_question(question, images, models)
        except MGMError as error:
            gr.Warning(str(error))
            yield (gr.skip(),) * 4
            return
        histories = state.histories[: len(models)]
        for history, name in zip(histories, models, strict=True):
            history.turns.append(ChatTurn(question, images, model=name or ""))
        async for updates in self.generate(histories, state, settings, request):
            yield updates

    async def stop(self, state: ChatState) -> None:
        """Cancel the running generations."""
        await state.stop()

    async def clear(self, state: ChatState) -> Updates:
        """Start new conversations."""
        await state.stop()
        state.histories = (ChatHistory(), ChatHistory())
        return render(state)

    def vote_comparison(
        self, outcome: str, request: gr.Request, state: ChatState, model: str, other: str
    ) -> None:
        """Log which of two models answered better."""
        left, right = state.histories
        if not (left.turns and right.turns):
            gr.Warning("Ask both models first.")
            return
        both = ChatHistory([*left.turns, *right.turns])
        self.log_vote(both, f"{model}, {other}", f"compare: {outcome}", request)

    def log_vote(self, history: ChatHistory, model: str, vote: str, request: gr.Request) -> None:
        """Log a vote, and confirm it."""
        try:
            self.log.log_vote(history, model, vote, _client_address(request))
            gr.Info("Thank you, your vote was saved.", duration=3)
        except MGMError as error:
            gr.Warning(str(error))

    async def check_question(
        self, question: str, images: Sequence[Path], models: Sequence[str | None]
    ) -> None:
        """Raise an MGMError if a question is empty, refused, or has a broken image or no model."""
        if not question and not images:
            raise MGMError("Write a question first.")
        if not all(models):
            raise MGMError("Choose a model first; reload the models if there is none.")
        for file in images:
            await asyncio.to_thread(open_image, file, file.name, UPRIGHT, NETWORK_LIMITS)
        if self.moderator is not None and question:
            await self.moderator.check(question)

    async def generate(
        self,
        histories: Sequence[ChatHistory],
        state: ChatState,
        settings: Sequence[Any],
        request: gr.Request,
    ) -> AsyncGenerator[Updates]:
        """Generate the answers to the last turns, rendered while they are streamed."""
        parsed, start_time = GenerationSettings(*settings), time.time()
        state.tasks = [asyncio.create_task(self._answer(one, parsed)) for one in histories]
        try:
            yield render(state, is_generating=True)
            while state.is_generating:
                await asyncio.wait(state.tasks, timeout=RENDER_INTERVAL)
                yield render(state, is_generating=True)
        finally:
            await state.stop()
        yield render(state)
        for history in filter(lambda one: one.turns, histories):  # may have been cleared
            try:
                model = history.turns[-1].model
                self.log.log_answer(history, model, start_time, _client_address(request))
            except MGMError as error:
                gr.Warning(str(error))

    async def _answer(self, history: ChatHistory, settings: GenerationSettings) -> None:
        """Stream an answer, or an error, into the last turn."""
        turn = history.turns[-1]
        try:
            async for response in self.client.stream(history, turn.model, settings):
                turn.answer, turn.generated_image = response.text, response.image
        except MGMError as error:
            turn.error = str(error)
        except asyncio.CancelledError:
            turn.error = "" if turn.answer else STOPPED
            raise

    async def _fetch_models(self) -> list[str]:
        try:
            names = await self.client.models()
        except MGMError as error:
            gr.Warning(str(error))
            return []
        if not names:
            gr.Warning("No model is being served; start a worker, then reload the models.")
        return names


class ChatPane:
    """Event handlers of the left or the right chat.

    Args:
        handlers: event handlers of the page.
        index: 0: left, 1: right.
    """

    def __init__(self, handlers: Handlers, index: int) -> None:
        self.handlers, self.index = handlers, index

    async def retry(
        self,
        data: gr.RetryData,
        request: gr.Request,
        state: ChatState,
        model: str | None,
        *settings: Any,
    ) -> AsyncGenerator[Updates]:
        """Ask a question again, with the model and settings that are selected now."""
        async for updates in self._ask_again(data.index, None, request, state, model, settings):
            yield updates

    async def edit(
        self,
        data: gr.EditData,
        request: gr.Request,
        state: ChatState,
        model: str | None,
        *settings: Any,
    ) -> AsyncGenerator[Updates]:
        """Replace a question, and answer the new one."""
        question = str(data.value)
        async for updates in self._ask_again(data.index, question, request, state, model, settings):
            yield updates

    async def undo(self, data: gr.UndoData, state: ChatState) -> Updates:
        """Move a question back into the input box."""
        await state.stop()
        history, index = state.histories[self.index], _turn_index(data.index)
        if index >= len(history.turns):
            return render(state)
        turn = history.pop_from(index)
        value = {"text": turn.question, "files": [str(path) for path in turn.images]}
        box = gr.MultimodalTextbox(value, submit_btn=True, stop_btn=False)
        return (box, *render(state)[1:])

    async def vote(self, data: gr.LikeData, request: gr.Request, state: ChatState) -> None:
        """Log a vote on an answer; a second event of the same vote is ignored."""
        history, index = state.histories[self.index], _turn_index(data.index)
        vote = VOTES.get(data.liked)
        if vote is None or index >= len(history.turns):
            return
        turn = history.turns[index]
        if turn.vote != vote:
            turn.vote = vote
            self.handlers.log_vote(history.until(turn), turn.model, vote, request)

    async def _ask_again(
        self,
        message_index: Any,
        question: str | None,
        request: gr.Request,
        state: ChatState,
        model: str | None,
        settings: Sequence[Any],
    ) -> AsyncGenerator[Updates]:
        """Remove a turn and all after it, and answer its question again, or an edited one."""
        history, index = state.histories[self.index], _turn_index(message_index)
        if index >= len(history.turns):
            yield render(state)
            return
        turn = history.turns[index]
        question = turn.question if question is None else question.strip()
        await state.stop()
        try:
            await self.handlers.check_question(question, turn.images, [model])
        except MGMError as error:
            gr.Warning(str(error))
            yield render(state)
            return
        history.pop_from(index)
        history.turns.append(ChatTurn(question, turn.images, model=model or ""))
        async for updates in self.handlers.generate([history], state, settings, request):
            yield updates


def render(state: ChatState, is_generating: bool = False) -> Updates:
    """Updates of the input box and both chats, and the state.

    Args:
        state: state of the page.
        is_generating: whether the box has a button to stop; else one to submit.
    """
    box = gr.update(submit_btn=not is_generating, stop_btn=is_generating)
    if is_generating:
        box["value"] = {"text": "", "files": []}
    chats = (chatbot_messages(history, is_generating) for history in state.histories)
    return (box, *chats, state)


def _turn_index(message_index: int | tuple[int, int] | list[int]) -> int:
    """The index of the turn that a message of the chatbot belongs to."""
    return (message_index if isinstance(message_index, int) else message_index[0]) // 2


def _client_address(request: gr.Request) -> str | None:
    return getattr(getattr(request, "client", None), "host", None)

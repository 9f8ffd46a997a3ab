"""What happens when something of the page is used.

Functions get the event first, then the reader's request, then the values of components; they
return box, both chats and what was said, see `pictures`.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
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
from mgm.serve.web.state import ChatHistory, ChatTurn

CURSOR = "▌"
STOPPED = "stopped"  # in place of an answer
PAUSE = 0.05  # seconds between two pictures of an answer that is being written
FEEDBACK = {True: "upvote", False: "downvote", "Flag": "flag"}
Pictures = tuple[Any, ...]


@dataclass
class ChatState:
    """What was said on a page, with each of two models.

    Attributes:
        sides: left and right; only the left one where models are not compared.
        writing: the answers that are being written.
    """

    sides: tuple[ChatHistory, ChatHistory] = field(
        default_factory=lambda: (ChatHistory(), ChatHistory())
    )
    writing: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def busy(self) -> bool:
        """Whether answers are being written."""
        return not all(task.done() for task in self.writing)

    async def stop(self) -> None:
        """Write no more. Whoever shows the answers sees them end."""
        for task in self.writing:
            task.cancel()
        await asyncio.gather(*self.writing, return_exceptions=True)


class Handlers:
    """What the page does as a whole.

    Args:
        client: asks the controller.
        log: keeps votes.
        models: that may be chosen; None: those that are there when the page is opened.
        moderator: objects to questions; None: nobody does.
    """

    def __init__(
        self,
        client: PageClient,
        log: FeedbackLog,
        models: Sequence[str] | None = None,
        moderator: Moderator | None = None,
    ) -> None:
        self.client, self.log, self.models, self.moderator = client, log, models, moderator

    async def opened(self, request: gr.Request) -> tuple[Any, Any, Any]:
        """Models to choose from, and those that the page's address names."""
        names = self.models if self.models is not None else await self._names()
        asked = dict(request.query_params)
        first, last = (names[0], names[-1]) if names else (None, None)
        model, other = (
            asked[key] if asked.get(key) in names else default
            for key, default in (("model", first), ("compare", last))
        )
        choices = list(names)
        return (
            gr.update(choices=choices, value=model),
            gr.update(choices=choices, value=other),
            "compare" in asked,
        )

    async def reload(self, model: str | None, other: str | None) -> tuple[Any, Any]:
        """The models that are there now; what was chosen stays, if it is."""
        names = await self._names()
        if self.models is not None:
            self.models = names
        first = names[0] if names else None
        kept = [one if one in names else first for one in (model, other)]
        return gr.update(choices=names, value=kept[0]), gr.update(choices=names, value=kept[1])

    async def ask(
        self,
        request: gr.Request,
        message: dict[str, Any],
        talk: ChatState,
        compare: bool,
        model: str | None,
        other: str | None,
        *settings: Any,
    ) -> AsyncGenerator[Pictures]:
        """Put a question to one model, or to two."""
        question = (message.get("text") or "").strip()
        files = tuple(Path(file) for file in message.get("files") or ())
        names = [model, other] if compare else [model]
        try:
            if talk.busy:
                raise MGMError("An answer is being written; stop it first.")
            await self.check(question, files, names)
        except MGMError as error:
            gr.Warning(str(error))
            yield (gr.skip(),) * 4
            return
        writing = talk.sides[: len(names)]
        for conversation, name in zip(writing, names, strict=True):
            conversation.exchanges.append(ChatTurn(question, files, model=name or ""))
        async for one in self.answered(writing, talk, settings, request):
            yield one

    async def stop(self, talk: ChatState) -> None:
        """End the answers that are being written."""
        await talk.stop()

    async def clear(self, talk: ChatState) -> Pictures:
        """Begin anew."""
        await talk.stop()
        talk.sides = (ChatHistory(), ChatHistory())
        return pictures(talk)

    def judge(
        self, outcome: str, request: gr.Request, talk: ChatState, model: str, other: str
    ) -> None:
        """Keep which of two answers the reader prefers."""
        left, right = talk.sides
        if not (left.exchanges and right.exchanges):
            gr.Warning("Ask both models first.")
            return
        both = ChatHistory([*left.exchanges, *right.exchanges])
        self.keep(both, f"{model}, {other}", f"compare: {outcome}", request)

    def keep(self, conversation: ChatHistory, model: str, vote: str, request: gr.Request) -> None:
        """Log a vote on a conversation, and say so."""
        try:
            self.log.voted(conversation, model, vote, _reader(request))
            gr.Info("Thank you, this was noted.", duration=3)
        except MGMError as error:
            gr.Warning(str(error))

    async def check(
        self, question: str, files: Sequence[Path], models: Sequence[str | None]
    ) -> None:
        """Raise an MGMError if it cannot be asked."""
        if not question and not files:
            raise MGMError("Write a question first.")
        if not all(models):
            raise MGMError("Choose a model first; reload the models if there is none.")
        for file in files:
            await asyncio.to_thread(open_image, file, file.name, UPRIGHT, NETWORK_LIMITS)
        if self.moderator is not None and question:
            await self.moderator.check(question)

    async def answered(
        self,
        writing: Sequence[ChatHistory],
        talk: ChatState,
        settings: Sequence[Any],
        request: gr.Request,
    ) -> AsyncGenerator[Pictures]:
        """The last exchange of some conversations, as it is answered."""
        asked, begun = GenerationSettings(*settings), time.time()
        talk.writing = [asyncio.create_task(self._answer(one, asked)) for one in writing]
        try:
            yield pictures(talk, busy=True)
            while talk.busy:
                await asyncio.wait(talk.writing, timeout=PAUSE)
                yield pictures(talk, busy=True)
        finally:
            await talk.stop()
        yield pictures(talk)
        for conversation in filter(lambda one: one.exchanges, writing):  # it may be cleared
            try:
                model = conversation.exchanges[-1].model
                self.log.answered(conversation, model, begun, _reader(request))
            except MGMError as error:
                gr.Warning(str(error))

    async def _answer(self, conversation: ChatHistory, settings: GenerationSettings) -> None:
        """Write an answer into the last exchange; what goes wrong is written there, too."""
        exchange = conversation.exchanges[-1]
        try:
            async for heard in self.client.answer(conversation, exchange.model, settings):
                exchange.answer, exchange.drawn = heard.text, heard.drawn
        except MGMError as error:
            exchange.fault = str(error)
        except asyncio.CancelledError:
            exchange.fault = "" if exchange.answer else STOPPED
            raise

    async def _names(self) -> list[str]:
        try:
            names = await self.client.models()
        except MGMError as error:
            gr.Warning(str(error))
            return []
        if not names:
            gr.Warning("No model is being served; start a worker, then reload the models.")
        return names


class ChatPane:
    """What happens in one of the two chats.

    Args:
        actions: of the page.
        number: 0 for the left one, 1 for the right one.
    """

    def __init__(self, actions: Handlers, number: int) -> None:
        self.actions, self.number = actions, number

    async def retry(
        self,
        data: gr.RetryData,
        request: gr.Request,
        talk: ChatState,
        model: str | None,
        *settings: Any,
    ) -> AsyncGenerator[Pictures]:
        """Ask the same again, of the model that is chosen now."""
        async for one in self._again(data.index, None, request, talk, model, settings):
            yield one

    async def edit(
        self,
        data: gr.EditData,
        request: gr.Request,
        talk: ChatState,
        model: str | None,
        *settings: Any,
    ) -> AsyncGenerator[Pictures]:
        """Ask something else in place of a question."""
        async for one in self._again(data.index, str(data.value), request, talk, model, settings):
            yield one

    async def undo(self, data: gr.UndoData, talk: ChatState) -> Pictures:
        """Take a question back, into the box."""
        await talk.stop()
        conversation, number = talk.sides[self.number], _number(data.index)
        if number >= len(conversation.exchanges):
            return pictures(talk)
        exchange = conversation.back_to(number)
        files = [str(path) for path in exchange.images]
        box = gr.MultimodalTextbox(
            {"text": exchange.question, "files": files}, submit_btn=True, stop_btn=False
        )
        return (box, *pictures(talk)[1:])

    async def vote(self, data: gr.LikeData, request: gr.Request, talk: ChatState) -> None:
        """Keep what the reader thinks of an answer; once, though browsers may say it twice."""
        conversation, number = talk.sides[self.number], _number(data.index)
        vote = FEEDBACK.get(data.liked)
        if vote is None or number >= len(conversation.exchanges):
            return
        exchange = conversation.exchanges[number]
        if exchange.vote != vote:
            exchange.vote = vote
            self.actions.keep(conversation.until(exchange), exchange.model, vote, request)

    async def _again(
        self,
        index: Any,
        question: str | None,
        request: gr.Request,
        talk: ChatState,
        model: str | None,
        settings: Sequence[Any],
    ) -> AsyncGenerator[Pictures]:
        """Go back to an exchange, and ask it, or another question, there."""
        conversation, number = talk.sides[self.number], _number(index)
        if number >= len(conversation.exchanges):
            yield pictures(talk)
            return
        exchange = conversation.exchanges[number]
        asked = exchange.question if question is None else question.strip()
        await talk.stop()
        try:
            await self.actions.check(asked, exchange.images, [model])
        except MGMError as error:
            gr.Warning(str(error))
            yield pictures(talk)
            return
        conversation.back_to(number)
        conversation.exchanges.append(ChatTurn(asked, exchange.images, model=model or ""))
        async for one in self.actions.answered([conversation], talk, settings, request):
            yield one


def pictures(talk: ChatState, busy: bool = False) -> Pictures:
    """Box, both chats, and what was said.

    Args:
        talk: what was said.
        busy: whether answers are being written, which can be stopped.
    """
    box = gr.update(submit_btn=not busy, stop_btn=busy)
    if busy:
        box["value"] = {"text": "", "files": []}
    return (box, *(shown(one, busy) for one in talk.sides), talk)


def shown(conversation: ChatHistory, busy: bool = False) -> list[dict[str, Any]]:
    """A conversation as a chat shows it: two messages for each exchange."""
    messages: list[dict[str, Any]] = []
    for exchange in conversation.exchanges:
        question: list[Any] = [{"path": str(path)} for path in exchange.images]
        if exchange.question:
            question.append(exchange.question)
        last = busy and exchange is conversation.exchanges[-1] and not exchange.fault
        text = exchange.answer + (CURSOR if last else "")
        if exchange.fault:
            text = f"{text}\n\n⚠️ {exchange.fault}".strip()
        answer: list[Any] = [text or "(no words)"]
        if exchange.drawn is not None:
            try:
                picture = open_image(exchange.drawn, "the drawing", limits=NETWORK_LIMITS)
                answer.append(gr.Image(picture, label="Drawn", show_label=False))
            except MGMError as error:
                answer.append(f"⚠️ {error}")
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
    return messages


def _number(index: int | tuple[int, int] | list[int]) -> int:
    """The number of the exchange that a message belongs to."""
    return (index if isinstance(index, int) else index[0]) // 2


def _reader(request: gr.Request) -> str | None:
    client = getattr(request, "client", None)
    return getattr(client, "host", None)

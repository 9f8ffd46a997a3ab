"""State of the Gradio page: chat turns, their history per model, and running generations."""

import asyncio
import base64
import json
import mimetypes
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from mgm.data.images.limits import NETWORK_LIMITS
from mgm.data.images.loading import open_image
from mgm.errors import MGMError

CURSOR = "▌"  # at the end of an answer that is being streamed


@dataclass
class ChatTurn:
    """A question and its answer.

    Attributes:
        question: question of the user.
        images: files that the user attached.
        answer: text generated so far.
        generated_image: content of an image file that the answer asked for; None: there is none.
        model: name of the model.
        error: error message, where generation failed; empty: no error.
        vote: vote of the user; empty: none yet.
    """

    question: str
    images: tuple[Path, ...] = ()
    answer: str = ""
    generated_image: bytes | None = None
    model: str = ""
    error: str = ""
    vote: str = ""


@dataclass
class ChatHistory:
    """Turns of a chat with one model, in order."""

    turns: list[ChatTurn] = field(default_factory=list)

    def pop_from(self, index: int) -> ChatTurn:
        """Remove the turn at an index and all after it; returns that turn."""
        turn = self.turns[index]
        del self.turns[index:]
        return turn

    def messages(self) -> list[dict[str, Any]]:
        """Messages of the OpenAI API, images as data URLs; unanswered turns are left out."""
        messages: list[dict[str, Any]] = []
        for turn in self.turns:
            is_last = turn is self.turns[-1]
            if not turn.answer and not is_last:
                continue
            parts = [
                {"type": "image_url", "image_url": {"url": data_url(path)}} for path in turn.images
            ]
            content = [*parts, {"type": "text", "text": turn.question}]
            messages.append({"role": "user", "content": content if parts else turn.question})
            if turn.answer:
                messages.append({"role": "assistant", "content": turn.answer})
        return messages

    def to_json(self) -> str:
        """Models and messages as JSON, for the export."""
        models = sorted({turn.model for turn in self.turns if turn.model})
        content = {"model": ", ".join(models), "messages": self.messages()}
        return json.dumps(content, indent=2, ensure_ascii=False)

    @property
    def last_with_images(self) -> ChatTurn | None:
        """The last turn that has images and an answer."""
        for turn in reversed(self.turns):
            if turn.images and turn.answer:
                return turn
        return None

    def until(self, turn: ChatTurn) -> "ChatHistory":
        """The history up to and including a turn."""
        index = next(index for index, one in enumerate(self.turns) if one is turn)
        return ChatHistory(self.turns[: index + 1])


@dataclass
class ChatState:
    """State of one visitor of the page.

    Attributes:
        histories: histories of the left and the right chat; the right one compares another model.
        tasks: running generations.
    """

    histories: tuple[ChatHistory, ChatHistory] = field(
        default_factory=lambda: (ChatHistory(), ChatHistory())
    )
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def is_generating(self) -> bool:
        """Whether a generation is running."""
        return not all(task.done() for task in self.tasks)

    async def stop(self) -> None:
        """Cancel the running generations; the handler that shows them ends, too."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def chatbot_messages(history: ChatHistory, is_generating: bool = False) -> list[dict[str, Any]]:
    """A history as messages of Gradio's chatbot: two per turn."""
    messages: list[dict[str, Any]] = []
    for turn in history.turns:
        question: list[Any] = [{"path": str(path)} for path in turn.images]
        if turn.question:
            question.append(turn.question)
        has_cursor = is_generating and turn is history.turns[-1] and not turn.error
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": _answer_content(turn, has_cursor)})
    return messages


def _answer_content(turn: ChatTurn, has_cursor: bool) -> list[Any]:
    text = turn.answer + (CURSOR if has_cursor else "")
    if turn.error:
        text = f"{text}\n\n⚠️ {turn.error}".strip()
    content: list[Any] = [text or "(empty answer)"]
    if turn.generated_image is not None:
        try:
            image = open_image(turn.generated_image, "generated image", limits=NETWORK_LIMITS)
            content.append(gr.Image(image, label="Generated", show_label=False))
        except MGMError as error:
            content.append(f"⚠️ {error}")
    return content


def data_url(path: Path) -> str:
    """The content of a file as a data URL."""
    media_type = mimetypes.guess_type(path.name)[0] or "image/png"
    return f"data:{media_type};base64,{base64.b64encode(path.read_bytes()).decode()}"

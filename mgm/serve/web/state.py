"""What was said on a page."""

import base64
import json
import mimetypes
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class ChatTurn:
    """A question and its answer.

    Attributes:
        question: what was asked.
        images: files that came with it.
        answer: as far as it is written.
        drawn: image that the model asked to draw, a file's bytes; None: none.
        model: that answered.
        fault: why there is no answer, or no more of it; empty: nothing went wrong.
        vote: what the reader thinks of it; empty: said nothing.
    """

    question: str
    images: tuple[Path, ...] = ()
    answer: str = ""
    drawn: bytes | None = None
    model: str = ""
    fault: str = ""
    vote: str = ""


@dataclass
class ChatHistory:
    """Exchanges with one model, in order."""

    exchanges: list[ChatTurn] = field(default_factory=list)

    def back_to(self, number: int) -> ChatTurn:
        """Forget the exchange of this number, and all after it; returns it."""
        exchange = self.exchanges[number]
        del self.exchanges[number:]
        return exchange

    def messages(self) -> list[dict[str, Any]]:
        """As the OpenAI API has it, images as data URLs; without questions that got no answer."""
        messages: list[dict[str, Any]] = []
        for exchange in self.exchanges:
            last = exchange is self.exchanges[-1]
            if not exchange.answer and not last:
                continue
            parts = [
                {"type": "image_url", "image_url": {"url": data_url(path)}}
                for path in exchange.images
            ]
            content = [*parts, {"type": "text", "text": exchange.question}]
            messages.append({"role": "user", "content": content if parts else exchange.question})
            if exchange.answer:
                messages.append({"role": "assistant", "content": exchange.answer})
        return messages

    def exported(self) -> str:
        """All of it as JSON, which the OpenAI API takes again."""
        models = sorted({exchange.model for exchange in self.exchanges if exchange.model})
        content = {"model": ", ".join(models), "messages": self.messages()}
        return json.dumps(content, indent=2, ensure_ascii=False)

    @property
    def with_images(self) -> ChatTurn | None:
        """The last exchange with images and an answer."""
        for exchange in reversed(self.exchanges):
            if exchange.images and exchange.answer:
                return exchange
        return None

    def until(self, exchange: ChatTurn) -> "ChatHistory":
        """The conversation as it was when an exchange had ended."""
        place = next(n for n, one in enumerate(self.exchanges) if one is exchange)
        return ChatHistory(self.exchanges[: place + 1])


def data_url(path: Path) -> str:
    """A file as a URL that holds it."""
    kind = mimetypes.guess_type(path.name)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"

"""What a page keeps of what people said: votes, and more where it is told to."""

import hashlib
import json
import time
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import Any

from mgm.errors import MGMError, one_line
from mgm.serve.web.state import ChatHistory


class FeedbackLog:
    """A file of JSON lines for each day, as published pages write it.

    Args:
        folder: where the files are.
        conversations: whether every answer is kept, not only what was voted on.
        images: whether images are kept beside them, by their hashes.
    """

    def __init__(self, folder: Path, conversations: bool = False, images: bool = False) -> None:
        self.folder, self.conversations, self.images = folder, conversations, images
        self._turn = Lock()

    def answered(
        self, conversation: ChatHistory, model: str, begun: float, who: str | None
    ) -> None:
        """An answer is complete; kept if conversations are.

        Raises:
            MGMError: it cannot be written.
        """
        if self.conversations:
            seconds = {"start": round(begun, 4), "finish": round(time.time(), 4)}
            self._write(conversation, {"type": "chat", "model": model, "ip": who} | seconds)

    def voted(self, conversation: ChatHistory, model: str, vote: str, who: str | None) -> None:
        """Someone voted on the last answer of a conversation.

        Args:
            conversation: up to that answer.
            model: that answered; two names where two were compared.
            vote: "upvote", "downvote", "flag", or the outcome of a comparison.
            who: address of the reader.

        Raises:
            MGMError: it cannot be written.
        """
        self._write(conversation, {"type": vote, "model": model, "ip": who})

    def _write(self, conversation: ChatHistory, facts: dict[str, Any]) -> None:
        messages, hashes = [], []
        try:
            for exchange in conversation.exchanges:
                contents = [path.read_bytes() for path in exchange.images]
                hashes += [self._kept(content) for content in contents]
                messages += [["USER", exchange.question], ["ASSISTANT", exchange.answer]]
            entry = {"tstamp": round(time.time(), 4)} | facts
            entry |= {"state": {"messages": messages}, "images": hashes}
            line = json.dumps(entry, ensure_ascii=False) + "\n"
            self.folder.mkdir(parents=True, exist_ok=True)
            file = self.folder / f"{datetime.now():%Y-%m-%d}-conv.json"
            with self._turn, file.open("a", encoding="utf-8") as out:
                out.write(line)
        except OSError as error:
            reason = one_line(error.strerror or error)
            raise MGMError(f"{self.folder}: nothing was logged ({reason})") from error

    def _kept(self, content: bytes) -> str:
        """The hash of an image, which is written to a file of that name if images are kept."""
        name = hashlib.sha256(content).hexdigest()[:32]
        if self.images:
            file = self.folder / "serve_images" / f"{datetime.now():%Y-%m-%d}" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                file.write_bytes(content)
        return name

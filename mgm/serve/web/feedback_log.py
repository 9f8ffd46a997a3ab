"""Feedback log of the Gradio page: votes, and optionally conversations and images, as JSONL."""

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
    """One JSONL file per day, in the format of published pages.

    Args:
        folder: folder of the files.
        conversations: whether every answer is logged, not only votes.
        images: whether images are saved, too, with their hashes as names.
    """

    def __init__(self, folder: Path, conversations: bool = False, images: bool = False) -> None:
        self.folder, self.conversations, self.images = folder, conversations, images
        self._lock = Lock()

    def log_answer(
        self, history: ChatHistory, model: str, start_time: float, address: str | None
    ) -> None:
        """Log a complete answer, if conversations are logged.

        Args:
            history: up to that answer.
            model: name of the model that answered.
            start_time: start of the generation, in seconds since the epoch.
            address: IP address of the client.

        Raises:
            MGMError: the file cannot be written.
        """
        if self.conversations:
            seconds = {"start": round(start_time, 4), "finish": round(time.time(), 4)}
            self._write(history, {"type": "chat", "model": model, "ip": address} | seconds)

    def log_vote(self, history: ChatHistory, model: str, vote: str, address: str | None) -> None:
        """Log a vote on the last answer of a conversation.

        Args:
            history: up to that answer.
            model: name of the model that answered; two names for a comparison.
            vote: "upvote", "downvote", "flag", or the outcome of a comparison.
            address: IP address of the client.

        Raises:
            MGMError: the file cannot be written.
        """
        self._write(history, {"type": vote, "model": model, "ip": address})

    def _write(self, history: ChatHistory, metadata: dict[str, Any]) -> None:
        messages, hashes = [], []
        try:
            for turn in history.turns:
                contents = [path.read_bytes() for path in turn.images]
                hashes += [self._hash_image(content) for content in contents]
                messages += [["USER", turn.question], ["ASSISTANT", turn.answer]]
            entry = {"tstamp": round(time.time(), 4)} | metadata
            entry |= {"state": {"messages": messages}, "images": hashes}
            line = json.dumps(entry, ensure_ascii=False) + "\n"
            self.folder.mkdir(parents=True, exist_ok=True)
            file = self.folder / f"{datetime.now():%Y-%m-%d}-conv.json"
            with self._lock, file.open("a", encoding="utf-8") as out:
                out.write(line)
        except OSError as error:
            reason = one_line(error.strerror or error)
            raise MGMError(f"{self.folder}: the log cannot be written ({reason})") from error

    def _hash_image(self, content: bytes) -> str:
        """The hash of an image; the image is saved under that name if images are logged."""
        name = hashlib.sha256(content).hexdigest()[:32]
        if self.images:
            file = self.folder / "serve_images" / f"{datetime.now():%Y-%m-%d}" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                file.write_bytes(content)
        return name

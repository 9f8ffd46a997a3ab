"""Answers of the engine in the words of the OpenAI API."""

import base64
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mgm.engine.core.request import Answer
from mgm.engine.core.sampling import Choice

DONE = b"data: [DONE]\n\n"
SSE_HEADERS = {
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}  # or a proxy would hold pieces back
MIN_LOGPROB = -9999.0  # in place of minus infinity, as in OpenAI's API
_REASONS = {"cancelled": "stop", "error": "stop"}  # others have one name here and there


def sse_event(content: dict[str, Any]) -> bytes:
    """A piece of a stream of server-sent events."""
    return b"data: " + json.dumps(content, ensure_ascii=False).encode() + b"\n\n"


def error_body(
    message: str, kind: str = "invalid_request_error", field: str | None = None,
    code: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """An error in OpenAI's shape; halves of surrogate pairs in it are written as escapes."""
    message = message.encode("utf-8", "backslashreplace").decode()
    return {"error": {"message": message, "type": kind, "param": field, "code": code}}


def model_list(names: Any, created: int) -> dict[str, Any]:
    """A list of models."""
    entries = [
        {"id": name, "object": "model", "created": created, "owned_by": "mgm"} for name in names
    ]
    return {"object": "list", "data": entries}


@dataclass(frozen=True)
class ResponseWriter:
    """Writes the answer to one body.

    Attributes:
        model: its name.
        chat: whether it is a chat completion.
    """

    model: str
    chat: bool
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(
        self, answers: Sequence[Answer], images: Mapping[int, bytes] | None = None
    ) -> dict[str, Any]:
        """All choices at once.

        Args:
            answers: one for each choice.
            images: PNG files that were drawn, by choice.
        """
        choices = []
        for number, answer in enumerate(answers):
            choice: dict[str, Any] = {"index": number}
            if self.chat:
                message = {"role": "assistant", "content": answer.text, "refusal": None}
                if number in (images or {}):
                    message |= _images((images or {})[number])
                choice["message"] = message
            else:
                choice["text"] = answer.text
            choice["logprobs"] = self._logprobs(answer.choices)
            choice["finish_reason"] = _REASONS.get(answer.finish_reason, answer.finish_reason)
            choices.append(choice)
        return self._envelope("", choices) | {"usage": token_usage(answers)}

    def first(self, number: int) -> bytes:
        """The piece that opens a choice of a chat."""
        return self._piece(number, {"role": "assistant", "content": ""})

    def text(self, number: int, text: str, choices: Sequence[Choice] = ()) -> bytes:
        """A piece of a choice's text."""
        return self._piece(number, {"content": text}, logprobs=self._logprobs(choices))

    def image(self, number: int, content: bytes) -> bytes:
        """The piece with what was drawn for a choice, a PNG file."""
        return self._piece(number, _images(content))

    def last(self, number: int, answer: Answer) -> bytes:
        """The piece that closes a choice."""
        reason = _REASONS.get(answer.finish_reason, answer.finish_reason)
        return self._piece(number, {}, reason)

    def counts(self, answers: Sequence[Answer]) -> bytes:
        """The piece that counts tokens."""
        return sse_event(self._envelope(".chunk", []) | {"usage": token_usage(answers)})

    def _piece(
        self,
        number: int,
        delta: dict[str, Any],
        reason: str | None = None,
        logprobs: Any = None,
    ) -> bytes:
        choice: dict[str, Any] = {"index": number, "logprobs": logprobs, "finish_reason": reason}
        choice |= {"delta": delta} if self.chat else {"text": delta.get("content", "")}
        return sse_event(self._envelope(".chunk", [choice]))

    def _envelope(self, suffix: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        kind = f"chat.completion{suffix}" if self.chat else "text_completion"
        return {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def _logprobs(self, choices: Sequence[Choice]) -> dict[str, Any] | None:
        """What OpenAI says of tokens; their texts joined are the text that they come with."""
        shown = [choice for choice in choices if choice.logprob is not None]
        if not shown:
            return None
        if self.chat:
            return {"content": [_chat_entry(choice) for choice in shown], "refusal": None}
        return {
            "tokens": [choice.text for choice in shown],
            "token_logprobs": [_finite(choice.logprob) for choice in shown],
            "top_logprobs": [_by_text(choice) for choice in shown],
            "text_offset": [choice.offset for choice in shown],
        }


def _chat_entry(choice: Choice) -> dict[str, Any]:
    likeliest = [_entry(one.text, one.logprob, one.utf8) for one in choice.likeliest]
    return _entry(choice.text, choice.logprob, choice.utf8) | {"top_logprobs": likeliest}


def _entry(text: str, logprob: float | None, utf8: bytes) -> dict[str, Any]:
    return {"token": text, "logprob": _finite(logprob), "bytes": list(utf8)}


def _by_text(choice: Choice) -> dict[str, float | None]:
    """The likeliest tokens by their texts, and the chosen one, which may be none of them.

    Of several tokens with one text, all but the first are named `token_id:N`.
    """
    others = {choice.text: choice.token}
    found: dict[str, float | None] = {}
    for one in choice.likeliest:
        text = choice.text if one.token == choice.token else one.text
        own = others.setdefault(text, one.token) == one.token
        found[text if own else f"token_id:{one.token}"] = _finite(one.logprob)
    return found if choice.text in found else found | {choice.text: _finite(choice.logprob)}


def _finite(logprob: float | None) -> float | None:
    """A number that JSON has."""
    return None if logprob is None else max(logprob, MIN_LOGPROB)


def _images(content: bytes) -> dict[str, Any]:
    """A drawn image in a message, as others that draw say it."""
    url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return {"images": [{"type": "image_url", "image_url": {"url": url}}]}


def token_usage(answers: Sequence[Answer]) -> dict[str, Any]:
    """Counts of tokens, of all choices together."""
    prompt = sum(answer.prompt_tokens for answer in answers)
    written = sum(len(answer.tokens) for answer in answers)
    cached = sum(answer.cached_tokens for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": cached},
    }

"""Responses of the OpenAI API: completions, server-sent events (SSE), logprobs, usage, errors."""

import base64
import json
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a controller imports this file without the engine
    from mgm.engine.core.request import Answer
    from mgm.engine.core.sampling_params import SampledToken


DONE = b"data: [DONE]\n\n"
# X-Accel-Buffering stops nginx from buffering the stream.
SSE_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
MIN_LOGPROB = -9999.0  # used for minus infinity, as in OpenAI's API
_FINISH_REASONS = {"cancelled": "stop", "error": "stop"}  # where OpenAI's differ from the engine's


def sse_event(content: dict[str, Any]) -> bytes:
    """A server-sent event (SSE) with a JSON object."""
    return b"data: " + json.dumps(content, ensure_ascii=False).encode() + b"\n\n"


def error_body(
    message: str, kind: str = "invalid_request_error", field: str | None = None,
    code: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """An error in OpenAI's shape; lone surrogates in the message are escaped."""
    message = message.encode("utf-8", "backslashreplace").decode()
    return {"error": {"message": message, "type": kind, "param": field, "code": code}}


def model_list(names: Iterable[str], created: int) -> dict[str, Any]:
    """The body of /v1/models."""
    entries = [
        {"id": name, "object": "model", "created": created, "owned_by": "mgm"} for name in names
    ]
    return {"object": "list", "data": entries}


@dataclass(frozen=True)
class ResponseWriter:
    """Writes the response to one request, complete or as server-sent events.

    Attributes:
        model: name of the model in the response.
        chat: whether it is a chat completion; else a text completion.
    """

    model: str
    chat: bool
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def endpoint(self) -> str:
        """Label of the metrics."""
        return "chat" if self.chat else "completions"

    def completion(
        self, answers: "Sequence[Answer]", images: Mapping[int, bytes] | None = None
    ) -> dict[str, Any]:
        """The body of a response that is not streamed.

        Args:
            answers: one per choice.
            images: generated PNG files, by index of the choice.
        """
        choices = []
        for index, answer in enumerate(answers):
            choice: dict[str, Any] = {"index": index}
            if self.chat:
                message = {"role": "assistant", "content": answer.text, "refusal": None}
                if index in (images or {}):
                    message |= _images((images or {})[index])
                choice["message"] = message
            else:
                choice["text"] = answer.text
            choice["logprobs"] = self._logprobs(answer.sampled_tokens)
            choice["finish_reason"] = _FINISH_REASONS.get(
                answer.finish_reason, answer.finish_reason
            )
            choices.append(choice)
        return self._envelope("", choices) | {"usage": token_usage(answers)}

    def delta_events(
        self, index: int, text: str, tokens: "Sequence[SampledToken]", is_first: bool
    ) -> bytes:
        """Server-sent events of a choice's next text and tokens; empty: there are none.

        Args:
            index: index of the choice.
            text: next text of the choice.
            tokens: next tokens of the choice.
            is_first: whether these are the first of the choice; a chat starts with the role.
        """
        events = b""
        if self.chat and is_first:
            events += self._event(index, {"role": "assistant", "content": ""})
        if text or tokens:
            events += self._event(index, {"content": text}, logprobs=self._logprobs(tokens))
        return events

    def image_event(self, index: int, content: bytes) -> bytes:
        """The event with the image generated for a choice, a PNG file."""
        return self._event(index, _images(content))

    def finish_event(self, index: int, answer: "Answer") -> bytes:
        """The last event of a choice, with its finish reason."""
        return self._event(index, {}, _finish_reason(answer))

    def usage_event(self, answers: "Sequence[Answer]") -> bytes:
        """The event with the token usage of all choices."""
        return sse_event(self._envelope(".chunk", []) | {"usage": token_usage(answers)})

    def _event(
        self,
        index: int,
        delta: dict[str, Any],
        finish_reason: str | None = None,
        logprobs: Any = None,
    ) -> bytes:
        choice = {"index": index, "logprobs": logprobs, "finish_reason": finish_reason}
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

    def _logprobs(self, sampled: "Sequence[SampledToken]") -> dict[str, Any] | None:
        """Logprobs of tokens, in the format of chat or text completions; None: not requested."""
        tokens = [one for one in sampled if one.logprob is not None]
        if not tokens:
            return None
        if self.chat:
            return {"content": [_chat_entry(token) for token in tokens], "refusal": None}
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [_finite(token.logprob) for token in tokens],
            "top_logprobs": [_by_text(token) for token in tokens],
            "text_offset": [token.offset for token in tokens],
        }


def _finish_reason(answer: "Answer") -> str:
    return _FINISH_REASONS.get(answer.finish_reason, answer.finish_reason)


def _chat_entry(token: "SampledToken") -> dict[str, Any]:
    top = [_entry(one.text, one.logprob, one.utf8) for one in token.top_logprobs]
    return _entry(token.text, token.logprob, token.utf8) | {"top_logprobs": top}


def _entry(text: str, logprob: float | None, utf8: bytes) -> dict[str, Any]:
    return {"token": text, "logprob": _finite(logprob), "bytes": list(utf8)}


def _by_text(token: "SampledToken") -> dict[str, float | None]:
    """Top logprobs by token text, the sampled token included.

    Of several tokens with the same text, all but the first have the key `token_id:N`.
    """
    first_with_text = {token.text: token.token}
    logprobs: dict[str, float | None] = {}
    for top in token.top_logprobs:
        text = token.text if top.token == token.token else top.text
        is_first = first_with_text.setdefault(text, top.token) == top.token
        logprobs[text if is_first else f"token_id:{top.token}"] = _finite(top.logprob)
    logprobs.setdefault(token.text, _finite(token.logprob))
    return logprobs


def _finite(logprob: float | None) -> float | None:
    """A logprob that JSON can represent: not minus infinity."""
    return None if logprob is None else max(logprob, MIN_LOGPROB)


def _images(content: bytes) -> dict[str, Any]:
    """A generated image in a message, in the format of OpenRouter and others."""
    url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return {"images": [{"type": "image_url", "image_url": {"url": url}}]}


def token_usage(answers: "Sequence[Answer]") -> dict[str, Any]:
    """Token usage of all choices together."""
    prompt = sum(answer.prompt_tokens for answer in answers)
    generated = sum(len(answer.tokens) for answer in answers)
    cached = sum(answer.cached_tokens for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": cached},
    }

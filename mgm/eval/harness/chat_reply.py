"""What a server replies: a completion, or a refusal that may be about a field of the request."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mgm.eval.harness.question import is_count, valid_text

# What is sent instead of a field; None: the field is left out.
FALLBACKS: dict[str, str | None] = {"max_tokens": "max_completion_tokens", "temperature": None}
# Source: refusals of OpenAI, Azure, vLLM, SGLang, Anthropic and of servers that use pydantic.
_UNSUPPORTED = re.compile(
    r"unsupported|(not|n['’]t) (be )?support|not permitted|not allowed|deprecated|"
    r"extra_?(fields|forbidden)|extra inputs|^extra$|unrecognized|"
    r"unknown (parameter|field|argument)|unexpected keyword|use ['\"`]?max_completion_tokens",
    re.IGNORECASE | re.MULTILINE,
)
# Servers that take some temperatures, but not 0. Source: refusals of Moonshot, Anthropic and TGI.
_REFUSED_VALUE = re.compile(
    r"\binvalid (value for )?['\"`]?temperature\b|"
    r"\btemperature\b['\"`]? (must|should|has to|may only|can only) be\b",
    re.IGNORECASE,
)
MAX_NESTED = 4  # refusals of other servers within one another
_SENTENCES = re.compile(r"(?<=[.;!])\s+|\n")


@dataclass(frozen=True)
class Completion:
    """A reply of a server.

    Attributes:
        text: of the message; empty where the model only thought, or refused.
        finish_reason: "stop", "length" or another; empty: the server does not say.
        reasoning: what the model thought before, where the server sends that by itself.
        usage: tokens that the server counted.
        omitted: fields that the server does not support, and were left out of the request.
    """

    text: str
    finish_reason: str = ""
    reasoning: str = ""
    usage: Mapping[str, int] = field(default_factory=dict)
    omitted: tuple[str, ...] = ()

    @property
    def only_thought(self) -> bool:
        """Whether it has thoughts, and nothing after them."""
        cut = self.finish_reason == "length"
        return not without_reasoning(self.text) and bool(self.text or self.reasoning or cut)


def parse_completion(reply: Any) -> Completion:
    """The completion in what a server sent.

    Raises:
        ValueError: it is none.
    """
    try:
        choice = reply["choices"][0]
        message = choice["message"]
        content = message.get("content")
        reasoning = message.get("reasoning_content") or message.get("reasoning")
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"its reply is no chat completion: {json.dumps(reply)[:60]}") from error
    if isinstance(content, list):  # parts, of which some may be texts
        parts = [one.get("text") for one in content if isinstance(one, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    return Completion(
        valid_text(content) if isinstance(content, str) else "",
        str(choice.get("finish_reason") or ""),
        valid_text(reasoning) if isinstance(reasoning, str) else "",
        _usage(reply.get("usage")),
    )


def _usage(value: Any) -> dict[str, int]:
    """The counts of tokens in a reply; what cannot be one is passed over."""
    items = value.items() if isinstance(value, dict) else ()
    return {name: count for name, count in items if is_count(count)}


def without_reasoning(text: str) -> str:
    """A reply without what was thought aloud before it; empty, where a thought has no end.

    Some chat templates open the thought in the prompt, so that only its end is seen.
    """
    for name in ("think", "thinking"):
        text = text.rpartition(f"</{name}>")[2].partition(f"<{name}>")[0]
    return text.strip()


def unsupported_field(body: str) -> str | None:
    """The field of `FALLBACKS` that a refusal says is not supported; None: it is about others.

    A refusal may quote the request, or name fields in passing, such as a context that is too short
    for `max_tokens`: only what it says of the field itself counts, never the whole of its text.

    Args:
        body: of the reply.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    for parameter, message in _complaints(content):
        if parameter == "temperature" or (parameter is None and _REFUSED_VALUE.search(message)):
            return "temperature"
        for name in FALLBACKS:
            if parameter == name and _UNSUPPORTED.search(message):
                return name
            if parameter is None and any(
                _names_field(one, name) and _UNSUPPORTED.search(one)
                for one in _SENTENCES.split(message)
            ):
                return name
    return None


def _names_field(text: str, name: str) -> bool:
    # "max_completion_tokens" does not contain "max_tokens".
    return re.search(rf"\b{name}\b", text) is not None


def _complaints(content: Any, nested: int = MAX_NESTED) -> Iterator[tuple[str | None, str]]:
    """Each field that a refusal complains of, None where it names none, and what it says."""
    if isinstance(content, list) and content:  # of Gemini
        content = content[0]
    if not isinstance(content, dict) or not nested:
        return
    error = content.get("error")
    for one in (content, error if isinstance(error, dict) else {"message": error}):
        message, parameter = one.get("message"), one.get("param")
        if isinstance(message, str):
            code = one.get("code")
            text = f"{message}\n{code}" if isinstance(code, str) else message
            yield parameter if isinstance(parameter, str) and parameter else None, text
        elif isinstance(message, dict):  # of Mistral
            yield from _complaints(message, nested - 1)
        yield from _complaints(_passed_on(one), nested - 1)
    detail = content.get("detail")
    if isinstance(detail, str):
        yield None, detail
    for one in detail if isinstance(detail, list) else ():  # of FastAPI
        where = one.get("loc") if isinstance(one, dict) else None
        if isinstance(where, list) and len(where) == 2 and isinstance(where[1], str):
            yield where[1], f"{one.get('type')}\n{one.get('msg')}"


def _passed_on(error: dict[str, Any]) -> Any:
    """The refusal of the server behind OpenRouter, which stands in its own as text; None: none."""
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    try:
        return json.loads(raw) if isinstance(raw, str) else None
    except (ValueError, RecursionError):
        return None


def with_fields(
    body: Mapping[str, Any], fields: Mapping[str, str | None], more_tokens: int
) -> dict[str, Any]:
    """A body whose fields are sent otherwise, or left out, and with more tokens for the reply."""
    sent = dict(body) | {"max_tokens": body["max_tokens"] + more_tokens}
    for name, instead in fields.items():
        if name in sent:
            value = sent.pop(name)
            if instead:
                sent[instead] = value
    return sent

"""Parsing of chat completion replies, and of errors about unsupported request fields."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mgm.eval.harness.question import is_count, valid_text

# Replacement of an unsupported field; None: the field is dropped.
FIELD_FALLBACKS: dict[str, str | None] = {
    "max_tokens": "max_completion_tokens",
    "temperature": None,
}
# Source: error messages of OpenAI, Azure, vLLM, SGLang, Anthropic and of servers that use pydantic.
_UNSUPPORTED = re.compile(
    r"unsupported|(not|n['’]t) (be )?support|not permitted|not allowed|deprecated|"
    r"extra_?(fields|forbidden)|extra inputs|^extra$|unrecognized|"
    r"unknown (parameter|field|argument)|unexpected keyword|use ['\"`]?max_completion_tokens",
    re.IGNORECASE | re.MULTILINE,
)
# Servers that accept temperatures, but not 0. Source: errors of Moonshot, Anthropic and TGI.
_INVALID_TEMPERATURE = re.compile(
    r"\binvalid (value for )?['\"`]?temperature\b|"
    r"\btemperature\b['\"`]? (must|should|has to|may only|can only) be\b",
    re.IGNORECASE,
)
MAX_NESTED_ERRORS = 4  # errors of upstream servers within one another
_SENTENCES = re.compile(r"(?<=[.;!])\s+|\n")


@dataclass(frozen=True)
class Completion:
    """A chat completion.

    Attributes:
        text: content of the message; empty if there is only reasoning, or a refusal.
        finish_reason: "stop", "length" or another; empty: not sent.
        reasoning: reasoning content, if the server sends it in a field of its own.
        usage: token counts.
        omitted: request fields that were dropped, since the server does not support them.
    """

    text: str
    finish_reason: str = ""
    reasoning: str = ""
    usage: Mapping[str, int] = field(default_factory=dict)
    omitted: tuple[str, ...] = ()

    @property
    def only_reasoning(self) -> bool:
        """Whether there is reasoning, and no text after it."""
        cut = self.finish_reason == "length"
        return not without_reasoning(self.text) and bool(self.text or self.reasoning or cut)


def parse_completion(reply: Any) -> Completion:
    """Parse the JSON of a reply.

    Raises:
        ValueError: not a chat completion.
    """
    try:
        choice = reply["choices"][0]
        message = choice["message"]
        content = message.get("content")
        reasoning = message.get("reasoning_content") or message.get("reasoning")
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"reply is not a chat completion: {json.dumps(reply)[:60]}") from error
    if isinstance(content, list):  # content parts, some of them texts
        parts = [one.get("text") for one in content if isinstance(one, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    return Completion(
        valid_text(content) if isinstance(content, str) else "",
        str(choice.get("finish_reason") or ""),
        valid_text(reasoning) if isinstance(reasoning, str) else "",
        _usage(reply.get("usage")),
    )


def _usage(value: Any) -> dict[str, int]:
    """The token counts in a reply; invalid ones are dropped."""
    items = value.items() if isinstance(value, dict) else ()
    return {name: count for name, count in items if is_count(count)}


def without_reasoning(text: str) -> str:
    """Remove <think> blocks; empty if one is not closed.

    Some chat templates open the block in the prompt, so that a reply may have the closing tag only.
    """
    for name in ("think", "thinking"):
        text = text.rpartition(f"</{name}>")[2].partition(f"<{name}>")[0]
    return text.strip()


def unsupported_field(body: str) -> str | None:
    """The field of `FIELD_FALLBACKS` that an error calls unsupported; None: another error.

    Errors may quote the request, or mention fields in passing, such as a context that is too short
    for `max_tokens`: only sentences about the field itself count.

    Args:
        body: body of the error response.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    for parameter, message in _error_messages(content):
        if parameter == "temperature" or (
            parameter is None and _INVALID_TEMPERATURE.search(message)
        ):
            return "temperature"
        for name in FIELD_FALLBACKS:
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


def _error_messages(
    content: Any, nested: int = MAX_NESTED_ERRORS
) -> Iterator[tuple[str | None, str]]:
    """Pairs of field, None where it is not given, and message of an error response."""
    if isinstance(content, list) and content:  # Gemini
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
        elif isinstance(message, dict):  # Mistral
            yield from _error_messages(message, nested - 1)
        yield from _error_messages(_upstream_error(one), nested - 1)
    detail = content.get("detail")
    if isinstance(detail, str):
        yield None, detail
    for one in detail if isinstance(detail, list) else ():  # FastAPI's validation errors
        where = one.get("loc") if isinstance(one, dict) else None
        if isinstance(where, list) and len(where) == 2 and isinstance(where[1], str):
            yield where[1], f"{one.get('type')}\n{one.get('msg')}"


def _upstream_error(error: dict[str, Any]) -> Any:
    """The upstream server's error in one of OpenRouter, as JSON in a text; None: none."""
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    try:
        return json.loads(raw) if isinstance(raw, str) else None
    except (ValueError, RecursionError):
        return None


def request_body(
    body: Mapping[str, Any], replacements: Mapping[str, str | None], extra_tokens: int
) -> dict[str, Any]:
    """A request body with fields replaced or dropped, and a larger token limit."""
    result = dict(body) | {"max_tokens": body["max_tokens"] + extra_tokens}
    for name, replacement in replacements.items():
        if name in result:
            value = result.pop(name)
            if replacement:
                result[replacement] = value
    return result

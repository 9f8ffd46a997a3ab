"""Chat messages of the OpenAI API as pydantic models, and as input of conversation templates."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from mgm.data.text.conversation import Message, join_parts
from mgm.data.text.templates import IMAGE_MARKER
from mgm.serve.openai.errors import OTHER, TEXT, BadRequestError

MAX_IMAGES = 32  # images per request
_STRICT = ConfigDict(strict=True, allow_inf_nan=False)


def text_tag(value: object) -> str:
    """The discriminator of a union of a string and another type."""
    return TEXT if isinstance(value, str) else OTHER


class ImageURL(BaseModel):
    """An http(s) or data URL, or an image file in base64."""

    model_config = _STRICT

    url: str = Field(min_length=1)
    detail: str | None = None


class TextContentPart(BaseModel):
    """Text in a message."""

    model_config = _STRICT

    type: Literal["text"]
    text: str


class RefusalContentPart(BaseModel):
    """A refusal of the assistant."""

    model_config = _STRICT

    type: Literal["refusal"]
    refusal: str


class ImageContentPart(BaseModel):
    """An image in a user message."""

    model_config = _STRICT

    type: Literal["image_url"]
    image_url: Annotated[
        Annotated[Annotated[str, Field(min_length=1)], Tag(TEXT)] | Annotated[ImageURL, Tag(OTHER)],
        Discriminator(text_tag),
    ]

    @property
    def source(self) -> str:
        """An http(s) or data URL, or base64 of an image file."""
        return self.image_url if isinstance(self.image_url, str) else self.image_url.url


def _part_tag(value: object) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return TEXT if kind is None else f"~{kind}"[:40]


ContentPart = Annotated[
    Annotated[TextContentPart, Tag(TEXT)]
    | Annotated[RefusalContentPart, Tag("~refusal")]
    | Annotated[ImageContentPart, Tag("~image_url")],
    Discriminator(_part_tag),
]
MessageContent = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[list[ContentPart], Tag(OTHER)],
    Discriminator(text_tag),
]


class FunctionCall(BaseModel):
    """A function call of the assistant."""

    model_config = _STRICT

    name: str
    arguments: Any = ""

    def text(self) -> str:
        """The call in the format of Hermes and Qwen models.

        Source: https://github.com/NousResearch/Hermes-Function-Calling
        """
        arguments = self.arguments
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        return f'<tool_call>\n{{"name": "{self.name}", "arguments": {arguments}}}\n</tool_call>'


class ToolCall(BaseModel):
    """A tool call of the assistant."""

    model_config = _STRICT

    function: FunctionCall


class ChatMessage(BaseModel):
    """A message of a chat."""

    model_config = _STRICT

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: MessageContent | None = None
    tool_calls: list[ToolCall] | None = None

    @model_validator(mode="after")
    def _check_content(self) -> "ChatMessage":
        if self.content is None and self.role != "assistant":
            raise PydanticCustomError(
                "missing_content",
                "messages of this role need content",
                {"below": ["content"]},
            )
        if self.role != "user" and isinstance(self.content, list):
            for index, part in enumerate(self.content):
                if isinstance(part, ImageContentPart):
                    raise PydanticCustomError(
                        "image_role",
                        "only user messages can have images",
                        {"below": ["content", index, "type"]},
                    )
        return self


@dataclass(frozen=True)
class ParsedChat:
    """A chat as input of a conversation template.

    Attributes:
        messages: roles and texts, with an image marker for each image.
        sources: URLs or base64 of the images, in the order of the markers.
    """

    messages: tuple[Message, ...]
    sources: tuple[str, ...]

    def with_suffix(self, suffix: str) -> "ParsedChat":
        """The chat with a text appended to the last user message."""
        messages = list(self.messages)
        for index in reversed(range(len(messages))):
            if suffix and messages[index].role == "user":
                messages[index] = Message("user", messages[index].text + suffix)
                break
        return ParsedChat(tuple(messages), self.sources)


def parse_chat(messages: Sequence[ChatMessage]) -> ParsedChat:
    """Convert messages for conversation templates.

    Results of tools become user messages, as in the templates of models with tool calling.

    Raises:
        BadRequestError: there are too many images.
    """
    texts: list[Message] = []
    sources: list[str] = []
    for message in messages:
        text = _text(message.content, sources)
        role = {"developer": "system", "tool": "user", "function": "user"}.get(
            message.role, message.role
        )
        if message.role in ("tool", "function"):
            text = f"<tool_response>\n{text}\n</tool_response>"
        calls = [escape_markers(call.function.text()) for call in message.tool_calls or []]
        texts.append(Message(role, "\n".join([*([text] if text or not calls else []), *calls])))
    if len(sources) > MAX_IMAGES:
        raise BadRequestError(
            f"Invalid 'messages': {len(sources)} images; give at most {MAX_IMAGES}", "messages",
            code="array_above_max_length",
        )  # fmt: skip
    return ParsedChat(tuple(texts), tuple(sources))


def escape_markers(text: str) -> str:
    """Escape image markers in a text."""
    return text.replace(IMAGE_MARKER, IMAGE_MARKER.replace("<", "< "))


def _text(content: str | list[Any] | None, sources: list[str]) -> str:
    """Text of a message, with each image marker on its own line; adds images to `sources`."""
    if content is None or isinstance(content, str):
        return escape_markers(content or "")
    parts: list[str | None] = []
    for part in content:
        if isinstance(part, ImageContentPart):
            sources.append(part.source)
            parts.append(None)
        else:
            parts.append(
                escape_markers(part.text if isinstance(part, TextContentPart) else part.refusal)
            )
    return join_parts(parts)

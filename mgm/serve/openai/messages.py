"""Messages of a chat: bodies of the OpenAI API, and the conversation that they make."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from mgm.data.text.conversation import Message, join_parts
from mgm.data.text.templates import IMAGE_MARKER
from mgm.serve.openai.errors import OTHER, TEXT, BadRequestError

MAX_IMAGES = 32  # of a request
_STRICT = ConfigDict(strict=True, allow_inf_nan=False)


def text_tag(value: object) -> str:
    """The tag of a union of a string and something else."""
    return TEXT if isinstance(value, str) else OTHER


class ImageURL(BaseModel):
    """An http(s) or data URL, or an image file in base64."""

    model_config = _STRICT

    url: str = Field(min_length=1)
    detail: str | None = None


class TextPart(BaseModel):
    """Text in a message."""

    model_config = _STRICT

    type: Literal["text"]
    text: str


class RefusalPart(BaseModel):
    """What the assistant said when it refused."""

    model_config = _STRICT

    type: Literal["refusal"]
    refusal: str


class ImagePart(BaseModel):
    """An image in a message of the user."""

    model_config = _STRICT

    type: Literal["image_url"]
    image_url: Annotated[
        Annotated[Annotated[str, Field(min_length=1)], Tag(TEXT)] | Annotated[ImageURL, Tag(OTHER)],
        Discriminator(text_tag),
    ]

    @property
    def source(self) -> str:
        """The URL."""
        return self.image_url if isinstance(self.image_url, str) else self.image_url.url


def _part_tag(value: object) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return TEXT if kind is None else f"~{kind}"[:40]


ContentPart = Annotated[
    Annotated[TextPart, Tag(TEXT)]
    | Annotated[RefusalPart, Tag("~refusal")]
    | Annotated[ImagePart, Tag("~image_url")],
    Discriminator(_part_tag),
]
Content = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[list[ContentPart], Tag(OTHER)],
    Discriminator(text_tag),
]


class FunctionCall(BaseModel):
    """The call of a function that the assistant asked for."""

    model_config = _STRICT

    name: str
    arguments: Any = ""

    def text(self) -> str:
        """As Hermes and Qwen models write it.

        Source: https://github.com/NousResearch/Hermes-Function-Calling
        """
        arguments = self.arguments
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        return f'<tool_call>\n{{"name": "{self.name}", "arguments": {arguments}}}\n</tool_call>'


class ToolCall(BaseModel):
    """A tool that the assistant called."""

    model_config = _STRICT

    function: FunctionCall


class ChatMessage(BaseModel):
    """One message of a chat."""

    model_config = _STRICT

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content | None = None
    tool_calls: list[ToolCall] | None = None

    @model_validator(mode="after")
    def _check_content(self) -> "ChatMessage":
        if self.content is None and self.role != "assistant":
            raise PydanticCustomError(
                "missing_content",
                "a message of this role has text or parts",
                {"below": ["content"]},
            )
        if self.role != "user" and isinstance(self.content, list):
            for number, part in enumerate(self.content):
                if isinstance(part, ImagePart):
                    raise PydanticCustomError(
                        "image_role",
                        "images come in messages of the user",
                        {"below": ["content", number, "type"]},
                    )
        return self


@dataclass(frozen=True)
class ParsedChat:
    """A chat as templates write it.

    Attributes:
        messages: roles and texts, an image marker in place of each image.
        sources: of the images, in the order of their markers.
    """

    messages: tuple[Message, ...]
    sources: tuple[str, ...]

    def with_suffix(self, suffix: str) -> "ParsedChat":
        """The same, with a text behind the last message of the user."""
        messages = list(self.messages)
        for index in reversed(range(len(messages))):
            if suffix and messages[index].role == "user":
                messages[index] = Message("user", messages[index].text + suffix)
                break
        return ParsedChat(tuple(messages), self.sources)


def parse_chat(messages: Sequence[ChatMessage]) -> ParsedChat:
    """The conversation that messages make.

    Tools' results are the user's, as in the templates of models that know tools.

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
        calls = [plain(call.function.text()) for call in message.tool_calls or []]
        texts.append(Message(role, "\n".join([*([text] if text or not calls else []), *calls])))
    if len(sources) > MAX_IMAGES:
        raise BadRequestError(
            f"Invalid 'messages': {len(sources)} images; give at most {MAX_IMAGES}", "messages",
            code="array_above_max_length",
        )  # fmt: skip
    return ParsedChat(tuple(texts), tuple(sources))


def plain(text: str) -> str:
    """A text in which nothing stands for an image."""
    return text.replace(IMAGE_MARKER, IMAGE_MARKER.replace("<", "< "))


def _text(content: str | list[Any] | None, sources: list[str]) -> str:
    """The text of a message; images stand on lines of their own, and `sources` gets theirs."""
    if content is None or isinstance(content, str):
        return plain(content or "")
    parts: list[str | None] = []
    for part in content:
        if isinstance(part, ImagePart):
            sources.append(part.source)
            parts.append(None)
        else:
            parts.append(plain(part.text if isinstance(part, TextPart) else part.refusal))
    return join_parts(parts)

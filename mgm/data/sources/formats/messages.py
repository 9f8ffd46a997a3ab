"""Parses the messages of a record: ShareGPT, OpenAI, Cauldron and caption formats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mgm.data.sources.formats.unsupported import NO_TOOLS, TOOL_ROLES, refuse_message_fields
from mgm.data.sources.sample import SampleError, value_kind
from mgm.data.text.conversation import join_parts
from mgm.data.text.templates import IMAGE_MARKER

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
HUMAN, MODEL = "human", "gpt"  # roles in published files
_PUBLISHED_NAMES = (HUMAN, MODEL)
_ROLES = {
    **dict.fromkeys((SYSTEM, "developer"), SYSTEM),
    **dict.fromkeys((USER, HUMAN), USER),
    **dict.fromkeys((ASSISTANT, MODEL, "chatgpt", "model"), ASSISTANT),
}
_TEXT_PARTS = ("text", "input_text", "output_text")
_IMAGE_PARTS = ("image", "image_url", "input_image", "image_path")
_IMAGE_KEYS = (*_IMAGE_PARTS, "url", "path", "base64", "bytes", "data", "source", "file_path")


@dataclass(frozen=True, slots=True)
class ImageReference:
    """A reference to an image in a message.

    Attributes:
        source: path, URL, base64 or bytes; None: the next image that the record lists.
        index: index of the image in that list, if the part has one.
    """

    source: Any = None
    index: int | None = None


NEXT_IMAGE = ImageReference()


@dataclass(slots=True)
class RawMessage:
    """A parsed message, before checks of the conversation.

    Attributes:
        role: "system", "user" or "assistant".
        text: content, with a marker in place of each image.
        images: image reference of each marker.
        number: number of the message in the record.
        name: name of its role in the record.
        names: names of the user and assistant roles in the record.
        is_text: whether its content is text, not a list of parts.
        is_caption: whether it is an image caption, not a message of a chat.
    """

    role: str
    text: str
    images: tuple[ImageReference, ...] = ()
    number: int = 0
    name: str = ""
    names: tuple[str, str] = (USER, ASSISTANT)
    is_text: bool = True
    is_caption: bool = False

    def with_images(self, text: str, images: tuple[ImageReference, ...]) -> "RawMessage":
        """A copy of the message with more images."""
        return replace(self, text=text, images=images)


def read_messages(
    content: Any, layout: str, where: str, is_caption: bool = False
) -> list[RawMessage]:
    """Parse the messages of a conversation, in their order.

    Args:
        content: value of the field of the conversation.
        layout: name of that field.
        where: prefix of errors.
        is_caption: whether it is a caption, not a list.

    Raises:
        SampleError: the role or the content of a message is not understood.
    """
    if is_caption:
        if not isinstance(content, str) or not content.strip():
            raise SampleError(f"{where}: {layout!r} has no text; add the caption", "no answer")
        return [RawMessage(ASSISTANT, content, _markers(content), is_caption=True)]
    if not _is_list(content) or not content:
        raise SampleError(
            f"{where}: {layout!r} is {value_kind(content)}; expected a list of messages"
        )
    if layout == "texts":
        pairs = [_pair(entry, number, where) for number, entry in enumerate(content)]
        return [message for pair in pairs for message in pair]
    return [
        _published(entry, number) or _message(entry, number, where)
        for number, entry in enumerate(content)
    ]


def _published(entry: Any, number: int) -> RawMessage | None:
    """Fast path for a message in the published format; None: another format."""
    if not isinstance(entry, dict) or len(entry) != 2:
        return None
    name, text = entry.get("from"), entry.get("value")
    if not isinstance(name, str) or not isinstance(text, str) or name not in _ROLES:
        return None
    images = _markers(text) if IMAGE_MARKER in text else ()
    return RawMessage(_ROLES[name], text, images, number, name, _PUBLISHED_NAMES)


def _pair(entry: Any, number: int, where: str) -> list[RawMessage]:
    if not isinstance(entry, dict):
        raise SampleError(
            f"{where}: entry {number} of 'texts' is {value_kind(entry)}; expected an object "
            "with 'user' and 'assistant'"
        )
    refuse_message_fields(entry, f"{where}: entry {number} of 'texts'", supervised=True)
    messages = []
    for role in (USER, ASSISTANT):
        text = _text_of(entry.get(role), role in entry, f"entry {number} of 'texts'", role, where)
        index = 2 * number + (role == ASSISTANT)
        messages.append(RawMessage(role, text, _markers(text), index, role))
    return messages


def _message(entry: Any, number: int, where: str) -> RawMessage:
    if not isinstance(entry, dict):
        raise SampleError(
            f"{where}: message {number} is {value_kind(entry)}; expected an object with 'from' "
            "and 'value', or 'role' and 'content'"
        )
    openai = entry.get("from") is None and ("role" in entry or "content" in entry)
    role_key, content_key = ("role", "content") if openai else ("from", "value")
    names = (USER, ASSISTANT) if openai else _PUBLISHED_NAMES
    label = f"message {number}"
    name = _text_of(entry.get(role_key), role_key in entry, label, role_key, where)
    role = _ROLES.get(name.lower())
    if role is None:
        if name.lower() in TOOL_ROLES:
            raise SampleError(
                f"{where}: {label} has {name!r} as {role_key!r}; {NO_TOOLS}", "unsupported"
            )
        raise SampleError(
            f"{where}: {label} has the unknown role {name!r}; valid: {names[0]!r}, {names[1]!r}, "
            f"and {SYSTEM!r} for the first message",
            "roles",
        )
    refuse_message_fields(entry, f"{where}: {label}", role == ASSISTANT, role, name)
    content = entry.get(content_key)
    if _is_list(content):
        text, images = _parts(content, f"{where}: {label}")
        return RawMessage(role, text, images, number, name, names, is_text=False)
    text = _text_of(content, content_key in entry, label, content_key, where)
    return RawMessage(role, text, _markers(text), number, name, names, is_text=not openai)


def _markers(text: str) -> tuple[ImageReference, ...]:
    """An image reference for each marker in a text."""
    return (NEXT_IMAGE,) * text.count(IMAGE_MARKER)


def _text_of(value: Any, is_present: bool, label: str, field: str, where: str) -> str:
    if isinstance(value, str):
        return value
    if not is_present:
        raise SampleError(f"{where}: {label} has no {field!r}; add it, as a string")
    raise SampleError(f"{where}: {label} has {value_kind(value)} as {field!r}; expected a string")


def _parts(content: Sequence[Any], where: str) -> tuple[str, tuple[ImageReference, ...]]:
    """Text with markers, and images, of content that is a list of parts."""
    texts: list[str | None] = []
    images: list[ImageReference] = []
    for number, part in enumerate(content):
        if isinstance(part, str):
            part = {"type": "text", "text": part}
        if not isinstance(part, dict):
            raise SampleError(f"{where}: part {number} is {value_kind(part)}; expected an object")
        label = f"{where}: part {number}"
        kind = part.get("type") or _kind_of(part)
        if kind in _TEXT_PARTS:
            text = part.get("text")
            if not isinstance(text, str):
                raise SampleError(f"{label} has {value_kind(text)} as 'text'; expected a string")
            if any(_is_set(part.get(key)) for key in _IMAGE_PARTS):
                raise SampleError(f"{label} has both text and an image; split it into two parts")
            texts.append(text)
            images += _markers(text)
        elif kind in _IMAGE_PARTS:
            texts.append(None)
            images.append(_image_part(part, label))
        else:
            raise SampleError(
                f"{label} has the unsupported type {kind!r}; only text and images can be trained "
                "on, so remove the sample or the part",
                "unsupported",
            )
    return join_parts(texts), tuple(images)


def _kind_of(part: Mapping[str, Any]) -> str | None:
    """The type of a part without a `type`, as in Qwen's files: {"image": ...}."""
    keys = [key for key, value in part.items() if value is not None and key != "type"]
    kinds = [key for key in keys if key in (*_TEXT_PARTS, *_IMAGE_PARTS)]
    return kinds[0] if len(kinds) == 1 else next(iter(keys), None)


def _image_part(part: Mapping[str, Any], where: str) -> ImageReference:
    if isinstance(part.get("text"), str) and part["text"].strip():
        raise SampleError(f"{where} has both an image and text; split it into two parts")
    sources = {key: part[key] for key in _IMAGE_KEYS if _is_set(part.get(key))}
    if not sources:
        index = part.get("index")
        return ImageReference(None, index if type(index) is int else None)
    if len(sources) > 1 and not {"bytes", "path"} >= sources.keys():
        names = " and ".join(map(repr, list(sources)[:2]))
        raise SampleError(f"{where} has an image in both {names}; keep one of them")
    if sources.keys() <= {"bytes", "path"}:
        return ImageReference(sources)
    ((_, source),) = sources.items()
    return ImageReference(source)


def _is_set(value: Any) -> bool:
    """Whether a value is not null, nor an object with only null fields, as in rows of tables."""
    if isinstance(value, dict):
        return any(map(_is_set, value.values()))
    return value is not None and not (isinstance(value, str) and not value)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)

"""Parses records to samples: one parser for JSON, JSON lines, tables, tars and streams.

Supported formats of a conversation (`mgm.data.sources.formats.messages`):

    conversations  [{"from": "human", "value": ...}, ...], as the published files and ShareGPT
    messages       [{"role": "user", "content": ...}, ...], as the OpenAI API
    texts          [{"user": ..., "assistant": ...}, ...], as the Cauldron
        caption        a text, or txt or text: the image's caption

Images are in `image` or `images`, in the parts of a message, or, in a tar or a table, under names
such as `jpg` or `1.png`: in the order in which the record names them, else by number. `system`, or
a first message of that role, is the system prompt. Unknown fields are ignored, except those that
`mgm.data.sources.formats.unsupported` refuses.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mgm.data.sources.formats.listed_images import (
    ListedImages,
    listed_images,
    own_or_listed,
    refuse_undefined_order,
)
from mgm.data.sources.formats.messages import (
    ASSISTANT,
    NEXT_IMAGE,
    SYSTEM,
    USER,
    RawMessage,
    read_messages,
)
from mgm.data.sources.formats.supervision import refuse_loss_fields, refuse_unread_texts
from mgm.data.sources.formats.tags import refuse_grounding, refuse_tags
from mgm.data.sources.formats.unsupported import (
    UNSUPPORTED_KIND,
    is_empty,
    is_system_field,
    refuse_fields,
    refuse_unread_images,
)
from mgm.data.sources.sample import Sample, SampleError, checked_sample, value_kind
from mgm.data.text.templates import IMAGE_MARKER

CAPTIONS = ("caption", "txt", "text")
CHATS = ("conversations", "messages", "texts")
# Fields of question answering; in a record that has one, `text` is an answer, not a caption.
_QUESTION_FIELDS = (
    "question", "questions", "question_id", "answer", "answers", "instruction", "response",
    "responses", "query", "output", "input",
)  # fmt: skip


def parse_sample(record: Any, where: str) -> Sample:
    """Parse and check a record.

    Args:
        record: a JSON object, a row of a table by column, or the members of a tar by extension;
            or the error from reading the record, which is raised.
        where: prefix of errors.

    Raises:
        SampleError: there is no conversation, roles do not alternate, there is no answer to
            train on, the numbers of markers and images differ, or the record has a field that
            training cannot use and must not ignore.
    """
    if isinstance(record, SampleError):
        raise record
    if isinstance(record, UnicodeDecodeError):
        raise SampleError(
            f"{where}: contains text that is not UTF-8 ({record}); fix it, or remove the row"
        ) from record
    try:
        return _parse(record, where)
    except RecursionError as error:
        raise SampleError(f"{where}: is nested too deeply; remove the nested field") from error


def _parse(record: Any, where: str) -> Sample:
    if isinstance(record, dict) and isinstance(record.get("json"), dict):
        record = {**record["json"], **{k: v for k, v in record.items() if k != "json"}}
    if not isinstance(record, dict):
        raise SampleError(
            f"{where}: is {value_kind(record)}; expected an object with 'conversations'"
        )
    refuse_fields(record, where)
    layout = _layout(record, where)
    messages = read_messages(record[layout], layout, where, layout in CAPTIONS)
    system, messages = _system_text(record, messages, where)
    _refuse_texts(record, messages, where)
    refuse_loss_fields(record, [message.role == ASSISTANT for message in messages], where)
    texts = [message.text for message in messages]
    refuse_unread_texts(record, [*texts, system or ""], where)
    listed = listed_images(record, where)
    published = layout == "conversations" and is_empty(record.get("images"))
    published = published and all(message.is_text for message in messages)
    if listed.images and not published and not any(message.images for message in messages):
        messages = _with_images_first(messages, len(listed.images))
    images = _images_of(messages, listed, where)
    names = listed.names if listed.names and not listed.are_members else images
    refuse_unread_images(record, names, where)
    if messages[0].is_caption and not images:
        raise SampleError(f"{where}: has a {layout!r} but no image; add the image", "no answer")
    texts = [message.text for message in messages]  # texts with image markers
    first = texts.pop(0) if messages[0].role == ASSISTANT else None
    answers: list[str | None] = [*texts[1::2], None]
    turns = tuple(zip(texts[::2], answers, strict=False))
    sample = Sample(turns, images, first, system, bool(images) and not published)
    return checked_sample(sample, where)


def _layout(record: Mapping[str, Any], where: str) -> str:
    given = [name for name in CHATS if record.get(name) is not None]
    if len(given) == 1 and isinstance(record[given[0]], list) and record[given[0]]:
        return given[0]  # fast path of most records
    filled = [name for name in given if not is_empty(record[name])]
    if len(filled) > 1:
        raise SampleError(
            f"{where}: has conversations in both {filled[0]!r} and {filled[1]!r}; keep one of them"
        )
    if filled:
        return filled[0]
    captions = [name for name in CAPTIONS if record.get(name) is not None]
    if captions:
        return _caption_layout(record, captions, where)
    if given:
        return given[0]
    names = ", ".join(map(str, record))[:200] or "nothing"
    raise SampleError(
        f"{where}: has no conversation; expected one of the fields "
        f"{', '.join((*CHATS, *CAPTIONS))}, found: {names}"
    )


def _caption_layout(record: Mapping[str, Any], captions: Sequence[str], where: str) -> str:
    """The name of the caption field.

    Raises:
        SampleError: it may not be a caption: there is a question, or another text.
    """
    first, *others = [name for name in captions if not is_empty(record[name])] or captions
    for name in record:
        if name.lower() in _QUESTION_FIELDS and not is_empty(record[name]):
            raise SampleError(
                f"{where}: has a {name!r}, so that {first!r} may not be a caption; write the "
                "conversation to learn as 'conversations'",
                UNSUPPORTED_KIND,
            )
    for name in others:
        if str(record[name]).strip() != str(record[first]).strip():
            raise SampleError(
                f"{where}: {first!r} and {name!r} are different captions; keep one of them",
                UNSUPPORTED_KIND,
            )
    return first


def _system_text(
    record: Mapping[str, Any], messages: list[RawMessage], where: str
) -> tuple[str | None, list[RawMessage]]:
    """The system prompt, and the other messages; their roles are checked.

    Raises:
        SampleError: there are two system prompts, it is not text, or roles do not alternate.
    """
    system_texts: list[tuple[str, str]] = []
    for field, value in record.items():
        if not is_system_field(field) or is_empty(value):
            continue
        if not isinstance(value, str):
            raise SampleError(f"{where}: {field!r} is {value_kind(value)}; expected a string")
        system_texts.append((f"field {field!r}", value))
    if messages and messages[0].role == SYSTEM:
        if messages[0].images:
            raise SampleError(
                f"{where}: message 0, the system prompt, has an image; move it to a question",
                "markers",
            )
        if not is_empty(messages[0].text):
            system_texts.append(("message 0", messages[0].text))
        messages = messages[1:]
    for field, text in system_texts:
        if IMAGE_MARKER in text:
            raise SampleError(
                f"{where}: {field}, the system prompt, contains {IMAGE_MARKER}; move the marker to "
                "a question",
                "markers",
            )
        refuse_tags(text, f"{where}: {field}", has_markers=False, earlier=None)
    if len({text for _, text in system_texts}) > 1:
        raise SampleError(
            f"{where}: {system_texts[0][0]} and {system_texts[1][0]} are different system prompts; "
            "keep one of them"
        )
    _check_roles(messages, where)
    return (system_texts[0][1] if system_texts else None), messages


def _refuse_texts(record: Mapping[str, Any], messages: Sequence[RawMessage], where: str) -> None:
    """Refuse texts with media placeholders of other frameworks.

    Raises:
        SampleError: names the tag and its message.
    """
    has_markers = any(message.images for message in messages)
    earlier: list[str] = []
    for message in messages:
        if message.role == USER:
            refuse_tags(message.text, f"{where}: message {message.number}", has_markers, earlier)
            earlier.append(message.text)
    if "objects" in record:
        refuse_grounding(record, [message.text for message in messages], where)


def _check_roles(messages: Sequence[RawMessage], where: str) -> None:
    """Check that roles alternate, and that a question has an answer.

    Raises:
        SampleError: roles do not alternate, or there is no answer.
    """
    starts_with_assistant = bool(messages) and messages[0].role == ASSISTANT
    if starts_with_assistant and messages[0].images:
        raise SampleError(
            f"{where}: message {messages[0].number}, before the first question, contains "
            f"{IMAGE_MARKER}; move the marker to a question",
            "markers",
        )
    for count, message in enumerate(messages[starts_with_assistant:]):
        expected = (USER, ASSISTANT)[count % 2]
        if message.role != expected:
            name = message.names[expected == ASSISTANT]
            rule = (
                "a system prompt must be the first message"
                if message.role == SYSTEM
                else "roles must alternate"
            )
            raise SampleError(
                f"{where}: message {message.number} is from {message.name!r}, expected {name!r}; "
                f"{rule}",
                "roles",
            )
    if len(messages) - starts_with_assistant < 2 and not (
        starts_with_assistant and messages[0].is_caption
    ):
        name = messages[0].names[1] if messages else "assistant"
        raise SampleError(
            f"{where}: has no answer to train on; add a message from {name!r}", "no answer"
        )


def _with_images_first(messages: list[RawMessage], count: int) -> list[RawMessage]:
    """Prepend the image markers, on one line each, to the first question."""
    marks = f"{IMAGE_MARKER}\n" * count
    parts = (NEXT_IMAGE,) * count
    first = next((index for index, one in enumerate(messages) if one.role == USER), None)
    if first is None:  # a caption
        return [RawMessage(USER, marks.rstrip("\n"), parts, messages[0].number), *messages]
    question = messages[first]
    text = (marks + question.text).rstrip("\n") if not question.text else marks + question.text
    changed = question.with_images(text, parts)
    return [*messages[:first], changed, *messages[first + 1 :]]


def _images_of(
    messages: Sequence[RawMessage], listed: ListedImages, where: str
) -> tuple[str | bytes, ...]:
    """The images in the order of their markers.

    Raises:
        SampleError: there are more or fewer images than markers.
    """
    parts = [part for message in messages for part in message.images]
    if any(part.source is not None for part in parts):
        return own_or_listed(parts, listed, where)
    markers, images = len(parts), listed.images
    if markers != len(images):
        raise SampleError(
            f"{where}: {markers} {IMAGE_MARKER} marker{'s' * (markers != 1)} but {len(images)} "
            f"image{'s' * (len(images) != 1)} in field {listed.field!r}; give one image for each "
            "marker",
            "markers",
        )
    refuse_undefined_order(listed, where)
    order = [part.index for part in parts]
    if all(index is None for index in order):
        return tuple(images)
    if sorted(order, key=lambda index: -1 if index is None else index) != list(range(len(images))):
        raise SampleError(
            f"{where}: its image parts have the indices {order}; expected each index from 0 to "
            f"{len(images) - 1} once",
            "markers",
        )
    return tuple(images[index] for index in order if index is not None)

"""Applies conversation templates: conversations to prompts, and to segments of training text."""

from collections.abc import Sequence
from dataclasses import dataclass

from mgm.data.text.templates import IMAGE_MARKER, ConversationTemplate, Layout
from mgm.errors import MGMError

Turn = tuple[str, str | None]  # a question and its answer; None: no answer (yet)


@dataclass(frozen=True)
class Segment:
    """A part of a prompt or training text; only tokens of `supervised` segments have labels."""

    text: str
    supervised: bool = False


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: "system", "user" or "assistant".
        text: content, with an image marker for each image.
    """

    role: str
    text: str


def chat_prompt(
    template: ConversationTemplate,
    messages: Sequence[Message],
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
) -> str:
    """The prompt of a conversation with roles in any order, equal to `apply_chat_template`.

    Messages whose order the template does not support are merged (`merge_messages`).

    Args:
        template: conversation template.
        messages: the conversation. A system message at the start replaces the template's system
            prompt.
        add_generation_prompt: whether to append the start of an assistant message.
        continue_final_message: whether to leave the last message, an assistant message, open, so
            that the model continues it; there is no generation prompt then.

    Raises:
        MGMError: the last message is to be continued and is not the assistant's.
    """
    if continue_final_message and (not messages or messages[-1].role != "assistant"):
        raise MGMError("continue_final_message: last message must have role 'assistant'")
    layout, system = template.layout, template.system
    rest = merge_messages(layout, messages)
    if rest and rest[0].role == "system":
        system, rest = rest[0].text, rest[1:]
    if layout.system_in_question and all(one.role != "user" for one in rest):
        rest = [Message("user", ""), *rest]
    segments = _render(layout, system, [*_messages(template.examples), *rest])
    text = "".join(segment.text for segment in segments)
    if continue_final_message:
        text = text.removesuffix(layout.answer[1])
    elif add_generation_prompt:
        text += layout.answer_open
    return number_images(text) if template.numbers_images else text


def merge_messages(layout: Layout, messages: Sequence[Message]) -> list[Message]:
    """Merge messages to an order that a layout supports.

    Layouts with `any_order` support all orders. For others, consecutive messages of one role are
    joined by line breaks. A system message that is not the first, or that the layout does not
    support, becomes a paragraph of the next user message.
    """
    merged: list[Message] = []
    was_moved = False  # whether the preceding text is a system message's
    for message in messages:
        role, text, moved = message.role, message.text, False
        first = all(one.role == "system" for one in merged)
        if role == "system" and not (layout.system and (first or layout.any_order)):
            if not text:
                continue
            role, moved = "user", True
        if merged and merged[-1].role == role and not layout.any_order:
            between = "\n" if moved == was_moved else "\n\n"
            merged[-1] = Message(role, merged[-1].text + between + text)
        else:
            merged.append(Message(role, text))
        was_moved = moved
    return merged


def build_prompt(
    template: ConversationTemplate, turns: Sequence[Turn], system: str | None = None
) -> str:
    """The prompt for the last question of `turns`, whose answer is None.

    Args:
        template: conversation template.
        turns: questions with their answers and image markers.
        system: replaces the template's system prompt.

    Raises:
        MGMError: the template takes no system prompt.
    """
    layout = template.layout
    if system and not layout.system:
        raise MGMError("this template takes no system prompt; leave it out")
    segments = _render(layout, template.system if system is None else system, _messages(turns))
    if turns and turns[-1][1] is None:
        segments.append(Segment(layout.answer_open))
    return "".join(segment.text for segment in segments)


def training_segments(
    template: ConversationTemplate,
    turns: Sequence[Turn],
    initial_assistant_message: str | None = None,
    system: str | None = None,
) -> list[Segment]:
    """The training text of `turns` as segments: answers are supervised, all other text is not.

    Args:
        template: conversation template.
        turns: questions with their answers and image markers; the last question may have no
            answer.
        initial_assistant_message: an assistant message before the first question.
        system: replaces the template's system prompt. In a layout without system prompts it is
            a paragraph before the first question, as in prompts (`merge_messages`).
    """
    layout = template.training or template.layout
    messages, written = _messages(turns), template.system
    if initial_assistant_message is not None and template.keeps_initial_assistant_message:
        messages = [Message("assistant", initial_assistant_message), *messages]
    if system is not None:
        messages = merge_messages(layout, [Message("system", system), *messages])
        if messages[0].role == "system":
            written, messages = system, messages[1:]
    return _supervise_separator(_render(layout, written, messages), layout.turn_separator)


def _messages(turns: Sequence[Turn]) -> list[Message]:
    messages = []
    for question, answer in turns:
        messages.append(Message("user", question))
        if answer is not None:
            messages.append(Message("assistant", answer))
    return messages


def _render(layout: Layout, system: str, messages: Sequence[Message]) -> list[Segment]:
    system = layout.system.replace("{}", system) if system else ""
    segments = [] if layout.system_in_question else [Segment(system)]
    first = True  # whether the next question is the first
    for message in messages:
        text = message.text.replace(IMAGE_MARKER, layout.image)
        if message.role == "system":
            segments.append(Segment(layout.system.replace("{}", text)))
        elif message.role == "assistant":
            segments.append(Segment(layout.answer_open))
            segments.append(Segment(layout.answer[0] + text + layout.answer[1], supervised=True))
        else:
            before, after = layout.question
            if first and layout.first_question is not None:
                before = layout.first_question
            if first and layout.system_in_question:
                before += system
            if layout.drops_questions:
                text = IMAGE_MARKER * message.text.count(IMAGE_MARKER)
            segments.append(Segment(before + text + after))
            first = False
    return [*segments, Segment(layout.closing)]


def _supervise_separator(segments: Sequence[Segment], separator: str) -> list[Segment]:
    learned: list[Segment] = []
    for segment in segments:
        after_answer = bool(learned) and learned[-1].supervised
        if separator and after_answer and segment.text.startswith(separator):
            learned.append(Segment(separator, supervised=True))
            segment = Segment(segment.text.removeprefix(separator))
        learned.append(segment)
    return learned


def move_image_first(text: str) -> str:
    """Move a single image marker to a line of its own at the start of `text`.

    Several markers keep their positions.
    """
    if IMAGE_MARKER not in text:
        return text
    # Compat: the published code moves a marker, and drops all but one of several. Released
    # checkpoints were trained with the former; the latter would lose images.
    if text.count(IMAGE_MARKER) > 1:
        return text.strip()
    return f"{IMAGE_MARKER}\n{text.replace(IMAGE_MARKER, '').strip()}".strip()


def keep_image_order(text: str) -> str:
    """Keep image markers in place; a single one at the start of `text` gets its own line."""
    stripped = text.strip()
    if text.count(IMAGE_MARKER) == 1 and stripped.startswith(IMAGE_MARKER):
        return move_image_first(text)
    return stripped if IMAGE_MARKER in text else text


def join_parts(parts: Sequence[str | None]) -> str:
    """Join the parts of a message to its text.

    Args:
        parts: texts, and None for an image. Texts are concatenated; an image is on a line of its
            own.
    """
    text = ""
    for number, part in enumerate(parts):
        if part is not None:
            text += part
            continue
        before = "\n" if number and parts[number - 1] is not None else ""
        text += before + IMAGE_MARKER + ("\n" if number + 1 < len(parts) else "")
    return text


def introduce_image(template: ConversationTemplate, turns: Sequence[Turn]) -> list[Turn]:
    """Add the image at the start of `turns`, as the published web page does."""
    (question, answer), *rest = turns
    question = question.replace(IMAGE_MARKER, "").strip()
    if template.image_exchange is not None:
        return [template.image_exchange, (question, answer), *rest]
    return [(f"{IMAGE_MARKER}\n{question}", answer), *rest]


def number_images(text: str) -> str:
    """Number image markers: `Image k:` before each, if there are two or more."""
    *parts, last = text.split(IMAGE_MARKER)
    if len(parts) < 2:
        return text
    numbered = [f"{part}Image {k}:{IMAGE_MARKER}" for k, part in enumerate(parts, start=1)]
    return "".join(numbered) + last

"""Turns of a conversation as text segments, and segments as token ids with labels.

Every segment says whether the model learns it. Ids and labels come from the same segments, so
there is nothing to align afterwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from mgm.data.text.templates import IMAGE_MARKER, Layout, Template
from mgm.data.text.tokenizer import encode_chunk, leading_ids
from mgm.errors import MGMError
from mgm.model.ops.causal_lm_loss import IGNORED

Turn = tuple[str, str | None]  # a question and its answer; None where there is none (yet)


@dataclass(frozen=True)
class Segment:
    """A piece of text, and whether the model learns to write it."""

    text: str
    supervised: bool = False


def prompt(template: Template, turns: Sequence[Turn], system: str | None = None) -> str:
    """The text that makes a model answer the last question of `turns` (its answer is None).

    Args:
        template: the way to write.
        turns: questions with their answers, image markers in place.
        system: replaces the template's system text.

    Raises:
        MGMError: the template has no place for a system text.
    """
    layout = template.layout
    if system and not layout.system:
        raise MGMError("this template has no place for a system text; leave it out")
    segments = _render(layout, template.system if system is None else system, turns)
    if turns and turns[-1][1] is None:
        segments.append(Segment(layout.answer_open))
    return "".join(segment.text for segment in segments)


def training_segments(
    template: Template, turns: Sequence[Turn], greeting: str | None = None
) -> list[Segment]:
    """The text to learn `turns` from.

    Args:
        template: the way to write.
        turns: questions with their answers, image markers in place. An open question at the end
            is written and, like every question, not learned.
        greeting: an answer that came before the first question.
    """
    layout = template.training or template.layout
    segments = []
    if greeting is not None and template.keeps_greeting:
        segments = _answer(layout, greeting)
    return _learn_signal(_render(layout, template.system, turns, segments), layout.next_signal)


def _render(
    layout: Layout, system: str, turns: Sequence[Turn], greeting: Sequence[Segment] = ()
) -> list[Segment]:
    system = layout.system.replace("{}", system) if system else ""
    segments = [] if layout.system_in_question else [Segment(system)]
    segments += greeting
    for index, (question, answer) in enumerate(turns):
        before, after = layout.question
        if index == 0 and layout.first_question is not None:
            before = layout.first_question
        if index == 0 and layout.system_in_question:
            before += system
        if layout.drops_questions:
            question = IMAGE_MARKER * question.count(IMAGE_MARKER)
        else:
            question = question.replace(IMAGE_MARKER, layout.image)
        segments.append(Segment(before + question + after))
        if answer is not None:
            segments += _answer(layout, answer)
    return [*segments, Segment(layout.closing)]


def _answer(layout: Layout, answer: str) -> list[Segment]:
    before, after = layout.answer
    text = before + answer.replace(IMAGE_MARKER, layout.image) + after
    return [Segment(layout.answer_open), Segment(text, supervised=True)]


def _learn_signal(segments: Sequence[Segment], signal: str) -> list[Segment]:
    learned: list[Segment] = []
    for segment in segments:
        if signal and learned and learned[-1].supervised and segment.text.startswith(signal):
            learned.append(Segment(signal, supervised=True))
            segment = Segment(segment.text.removeprefix(signal))
        learned.append(segment)
    return learned


def move_image_first(text: str) -> str:
    """`text` as published training writes it: its only image marker comes first, on a line.

    Several markers stay where they are.
    """
    if IMAGE_MARKER not in text:
        return text
    # Compat: the published code moves the marker, and of several markers keeps one. Released
    # checkpoints learned the first; the second would lose images.
    if text.count(IMAGE_MARKER) > 1:
        return text.strip()
    return f"{IMAGE_MARKER}\n{text.replace(IMAGE_MARKER, '').strip()}".strip()


def introduce_image(template: Template, turns: Sequence[Turn]) -> list[Turn]:
    """`turns` with the image at their beginning, the way the published web page sends it."""
    (question, answer), *rest = turns
    question = question.replace(IMAGE_MARKER, "").strip()
    if template.image_exchange is not None:
        return [template.image_exchange, (question, answer), *rest]
    return [(f"{IMAGE_MARKER}\n{question}", answer), *rest]


def number_images(text: str) -> str:
    """`text` with `Image k:` before every image marker when there are two or more."""
    pieces = text.split(IMAGE_MARKER)
    if len(pieces) < 3:
        return text
    numbered = [f"{piece}Image {k}:{IMAGE_MARKER}" for k, piece in enumerate(pieces[:-1], start=1)]
    return "".join(numbered) + pieces[-1]


def encode(
    segments: Sequence[Segment],
    tokenizer: PreTrainedTokenizerBase,
    image_token_id: int,
    tokens_per_image: int,
    add_leading_ids: bool = True,
) -> tuple[list[int], list[int]]:
    """Token ids and labels of `segments`.

    The text between image markers is tokenised piece by piece, without regard to segments: a token
    is learned when it begins in a supervised segment.

    Args:
        segments: the text.
        tokenizer: a tokenizer that knows where in the text its tokens begin.
        image_token_id: the id at image positions.
        tokens_per_image: image positions that one image marker becomes.
        add_leading_ids: whether the tokenizer's beginning-of-text token comes first.

    Returns:
        Ids and labels, equally long; labels are the ids where they are learned, else -100.
    """
    supervised = bytearray()
    for segment in segments:
        supervised += bytes([segment.supervised]) * len(segment.text)
    ids = leading_ids(tokenizer) if add_leading_ids else []
    labels = [IGNORED] * len(ids)
    place = 0
    for index, chunk in enumerate("".join(s.text for s in segments).split(IMAGE_MARKER)):
        if index:
            ids += [image_token_id] * tokens_per_image
            labels += [IGNORED] * tokens_per_image
            place += len(IMAGE_MARKER)
        chunk_ids, starts = encode_chunk(tokenizer, chunk)
        ids += chunk_ids
        labels += [
            token if supervised[place + start] else IGNORED
            for token, start in zip(chunk_ids, starts, strict=True)
        ]
        place += len(chunk)
    return ids, labels

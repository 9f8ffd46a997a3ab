"""Refuses loss masks of records, and fields with texts that are not in the conversation."""

from collections.abc import Mapping, Sequence
from typing import Any

from mgm.data.sources.formats.unsupported import UNSUPPORTED_KIND, is_empty, plain_name
from mgm.data.sources.sample import SampleError
from mgm.data.text.templates import IMAGE_MARKER

_MASKS = ("train", "trainable", "loss", "lossmask", "lossscale")
_LABEL = "label"  # false: an undesirable answer of KTO; other values are classes
_OFF = ("false", "no", "off", "0")
_TEXTS = ("instruction", "input")


def refuse_loss_fields(record: Mapping[str, Any], supervised: Sequence[bool], where: str) -> None:
    """Refuse a record with a loss mask, or a field that excludes it from the loss.

    A mask that selects all answers and nothing else is accepted: a true value, a list with a true
    value for each answer, or a list with a value for each message that is true for answers.

    Args:
        record: raw record.
        supervised: for each message except the system's, whether it is an answer.
        where: prefix of errors.

    Raises:
        SampleError: names the field.
    """
    for name, value in record.items():
        plain = plain_name(name)
        refused = plain == _LABEL and value is False
        if plain in _MASKS and not is_empty(value):
            # A number in `loss` is a recorded loss value.
            is_recorded_loss = plain == "loss" and type(value) in (int, float)
            refused = not is_recorded_loss and not _selects_answers(value, supervised)
        if refused:
            raise SampleError(
                f"{where}: field {name!r} is {value!r:.40}, but the loss covers all answers and no "
                "question; split or remove the sample, or remove the field",
                UNSUPPORTED_KIND,
            )


def _selects_answers(value: Any, supervised: Sequence[bool]) -> bool:
    """Whether a loss mask selects all answers and nothing else."""
    if isinstance(value, list | tuple):
        given = list(value)
        answers = [True] * sum(supervised)
        # The last one also has a value for the system message.
        return given in (answers, list(supervised), [False, *supervised])
    if isinstance(value, str):
        return value.strip().lower() not in _OFF
    return not isinstance(value, int | float) or value == 1


def refuse_unread_texts(record: Mapping[str, Any], texts: Sequence[str], where: str) -> None:
    """Refuse an `instruction` or `input` whose text is not in the conversation.

    Many published records repeat their first question in these fields.

    Args:
        record: raw record.
        texts: texts of all messages, and the system prompt.
        where: prefix of errors.

    Raises:
        SampleError: names the field.
    """
    for name, value in record.items():
        if plain_name(name) not in _TEXTS or not isinstance(value, str) or is_empty(value):
            continue
        words = _words(value)
        if not any(words in _words(text) for text in texts):
            raise SampleError(
                f"{where}: the text of field {name!r} is in no message; add it to the question, or "
                "remove the field",
                UNSUPPORTED_KIND,
            )


def _words(text: str) -> str:
    """A text without image markers, with whitespace normalised."""
    return " ".join(text.replace(IMAGE_MARKER, " ").split())

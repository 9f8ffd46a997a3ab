"""Fields of a record that say what of its conversation is learned, and texts it does not hold."""

from collections.abc import Mapping, Sequence
from typing import Any

from mgm.data.sources.formats.unsupported import UNSUPPORTED_KIND, is_empty, plain_name
from mgm.data.sources.sample import SampleError
from mgm.data.text.templates import IMAGE_MARKER

_MASKS = ("train", "trainable", "loss", "lossmask", "lossscale")
_LABEL = "label"  # of KTO: false is an answer not to give; other data sets have classes there
_OFF = ("false", "no", "off", "0")
_TEXTS = ("instruction", "input")


def refuse_loss_fields(record: Mapping[str, Any], learned: Sequence[bool], where: str) -> None:
    """Refuse a record with a loss mask, or a mark that it is not to be learned.

    What says no more than that all answers are learned is no mask: a true value, or a list with
    one for each answer, or for each message whether it is an answer.

    Args:
        record: as it was read.
        learned: of each message, but for the system's, whether it is an answer.
        where: what errors begin with.

    Raises:
        SampleError: names the field.
    """
    for name, value in record.items():
        plain = plain_name(name)
        refused = plain == _LABEL and value is False
        if plain in _MASKS and not is_empty(value):
            # A number under `loss` is what some model's loss was.
            is_figure = plain == "loss" and type(value) in (int, float)
            refused = not is_figure and not _learns_answers(value, learned)
        if refused:
            raise SampleError(
                f"{where}: field {name!r} is {value!r:.40}, and all answers are learned and no "
                "question is; leave the sample out, divide it, or remove the field",
                UNSUPPORTED_KIND,
            )


def _learns_answers(value: Any, learned: Sequence[bool]) -> bool:
    """Whether a mask learns all answers and nothing else."""
    if isinstance(value, list | tuple):
        given = list(value)
        answers = [True] * sum(learned)
        return given in (answers, list(learned), [False, *learned])  # with the system's message
    if isinstance(value, str):
        return value.strip().lower() not in _OFF
    return not isinstance(value, int | float) or value == 1


def refuse_unread_texts(record: Mapping[str, Any], texts: Sequence[str], where: str) -> None:
    """Refuse an instruction or its input beside a conversation that does not hold it.

    Many published records repeat their first question there.

    Args:
        record: as it was read.
        texts: of the messages and of the system.
        where: what errors begin with.

    Raises:
        SampleError: names the field.
    """
    for name, value in record.items():
        if plain_name(name) not in _TEXTS or not isinstance(value, str) or is_empty(value):
            continue
        wanted = _words(value)
        if not any(wanted in _words(text) for text in texts):
            raise SampleError(
                f"{where}: field {name!r} holds a text that no message does; write it into the "
                "question, or remove it",
                UNSUPPORTED_KIND,
            )


def _words(text: str) -> str:
    """A text without image markers, with single blanks."""
    return " ".join(text.replace(IMAGE_MARKER, " ").split())

"""A training sample: a checked conversation with its images, independent of the file format."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgm.data.sources.text_checks import text_fault
from mgm.data.text.conversation import (
    Segment,
    Turn,
    keep_image_order,
    move_image_first,
    training_segments,
)
from mgm.data.text.templates import ConversationTemplate
from mgm.errors import MGMError

URL_SCHEMES = ("http://", "https://")  # schemes of downloaded images


class SampleError(MGMError):
    """The error of an unusable sample.

    Attributes:
        kind: "malformed", "roles", "no answer", "markers", "unsupported" or "broken image".
    """

    def __init__(self, message: str, kind: str = "malformed") -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Sample:
    """A conversation and its images.

    Attributes:
        turns: questions with their answers; the last question may have none.
        images: in the order of their markers: paths and http(s) URLs as in the data file, or the
            bytes of image files.
        initial_assistant_message: an assistant message before the first question.
        system: replaces the template's system prompt; None: does not.
        keeps_order: whether image markers keep their positions in a message; in the published
            format, a single marker moves to the start of its message.
    """

    turns: tuple[Turn, ...]
    images: tuple[str | bytes, ...] = ()
    initial_assistant_message: str | None = None
    system: str | None = None
    keeps_order: bool = False

    @property
    def file_names(self) -> tuple[str | None, ...]:
        """The path of each image; None for bytes or a URL."""
        return tuple(None if isinstance(i, bytes) or is_url(i) else i for i in self.images)

    @property
    def words(self) -> int:
        """Number of words of all messages; an image marker counts as one."""
        texts = [
            self.system,
            self.initial_assistant_message,
            *(text for turn in self.turns for text in turn),
        ]
        return sum(len(text.split()) for text in texts if text)

    def image_sources(self, folder: Path) -> list[Path | str | bytes]:
        """The images as arguments of `open_image`, with paths relative to `folder` resolved."""
        return [
            image if isinstance(image, bytes) or is_url(image) else folder / image
            for image in self.images
        ]

    @property
    def arranged_turns(self) -> tuple[Turn, ...]:
        """The turns with their image markers at the positions of training texts."""
        if not self.images:
            return self.turns
        arranged = keep_image_order if self.keeps_order else move_image_first
        return tuple(
            (arranged(question), answer and arranged(answer)) for question, answer in self.turns
        )

    def segments(self, template: ConversationTemplate) -> list[Segment]:
        """The training text in a conversation template, as supervised and other segments."""
        return training_segments(
            template, self.arranged_turns, self.initial_assistant_message, self.system
        )


def is_url(image: str) -> bool:
    """Whether a name is an http(s) URL."""
    return image[:8].lower().startswith(URL_SCHEMES)


def checked_sample(sample: Sample, where: str) -> Sample:
    """Check the texts and image names of a sample, and that it is not empty; returns it.

    Args:
        sample: parsed sample.
        where: prefix of errors.

    Raises:
        SampleError: names the invalid message or image, and the reason.
    """
    messages = (
        [] if sample.initial_assistant_message is None else [sample.initial_assistant_message]
    )
    messages += [text for turn in sample.turns for text in turn if text is not None]
    system = [] if sample.system is None else [sample.system]
    names = [image for image in sample.images if isinstance(image, str)]
    if not all(map(str.isascii, (*messages, *system, *names))):  # fast path of most samples
        _check_characters(sample, messages, where)
    if not sample.images and not any(text.split() for text in messages):
        raise SampleError(f"{where}: every message is empty; remove the sample", "no answer")
    return sample


def _check_characters(sample: Sample, messages: list[str], where: str) -> None:
    """Check that texts and image names are valid Unicode.

    Raises:
        SampleError: names the invalid text.
    """
    texts = [(f"message {number}", text) for number, text in enumerate(messages)]
    texts += [] if sample.system is None else [("the system prompt", sample.system)]
    texts += [
        (f"the name of image {number}", image)
        for number, image in enumerate(sample.images, start=1)
        if isinstance(image, str)
    ]
    for name, text in texts:
        if fault := text_fault(text):
            raise SampleError(f"{where}: {name} {fault}")


def value_kind(value: Any) -> str:
    """The JSON type of a value with its article, such as "an object"."""
    for kind, name in ((bool, "boolean"), (int | float, "number"), (str, "string"), (list, "list")):
        if isinstance(value, kind):
            return f"an empty {name}" if value in ("", []) else f"a {name}"
    if isinstance(value, dict):
        return "an object"
    return "null" if value is None else f"a value of type {type(value).__name__}"

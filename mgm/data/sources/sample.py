"""A training sample: a conversation with its images, whatever file it was read from."""

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
from mgm.data.text.templates import Template
from mgm.errors import MGMError

URL_SCHEMES = ("http://", "https://")  # of images that are downloaded


class SampleError(MGMError):
    """A sample that cannot be used.

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
        images: in the order of their markers: paths and http(s) URLs as the data file names them,
            or the bytes of image files.
        initial_assistant_message: an assistant message before the first question.
        system: replaces the template's system prompt; None: that stays.
        keeps_order: whether image markers stay where they are in a message; a single one of the
            published form moves to its beginning.
    """

    turns: tuple[Turn, ...]
    images: tuple[str | bytes, ...] = ()
    initial_assistant_message: str | None = None
    system: str | None = None
    keeps_order: bool = False

    @property
    def file_names(self) -> tuple[str | None, ...]:
        """Of each image its path; None where it is no file: bytes, or a URL."""
        return tuple(None if isinstance(i, bytes) or is_url(i) else i for i in self.images)

    @property
    def words(self) -> int:
        """Words of all messages, an image marker counted as one."""
        texts = [
            self.system,
            self.initial_assistant_message,
            *(text for turn in self.turns for text in turn),
        ]
        return sum(len(text.split()) for text in texts if text)

    def image_sources(self, folder: Path) -> list[Path | str | bytes]:
        """The images as `open_image` takes them, paths beginning at `folder`."""
        return [
            image if isinstance(image, bytes) or is_url(image) else folder / image
            for image in self.images
        ]

    @property
    def arranged_turns(self) -> tuple[Turn, ...]:
        """The turns with their image markers where training has them."""
        if not self.images:
            return self.turns
        arranged = keep_image_order if self.keeps_order else move_image_first
        return tuple(
            (arranged(question), answer and arranged(answer)) for question, answer in self.turns
        )

    def segments(self, template: Template) -> list[Segment]:
        """The text to learn this sample from, written as `template` says."""
        return training_segments(
            template, self.arranged_turns, self.initial_assistant_message, self.system
        )


def is_url(image: str) -> bool:
    """Whether an image's name is an http(s) URL."""
    return image[:8].lower().startswith(URL_SCHEMES)


def checked_sample(sample: Sample, where: str) -> Sample:
    """`sample`, if its texts and image names can be used and there is a word or an image in it.

    Args:
        sample: as it was read.
        where: what errors begin with.

    Raises:
        SampleError: says which message or image cannot be used, and why.
    """
    messages = (
        [] if sample.initial_assistant_message is None else [sample.initial_assistant_message]
    )
    messages += [text for turn in sample.turns for text in turn if text is not None]
    system = [] if sample.system is None else [sample.system]
    names = [image for image in sample.images if isinstance(image, str)]
    if not all(map(str.isascii, (*messages, *system, *names))):  # as nearly all
        _check_characters(sample, messages, where)
    if not sample.images and not any(text.split() for text in messages):
        raise SampleError(f"{where}: has no words in any message; take it out", "no answer")
    return sample


def _check_characters(sample: Sample, messages: list[str], where: str) -> None:
    """Find a text or an image name that no file can hold.

    Raises:
        SampleError: names it.
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
    """What JSON calls a value, with its article."""
    for kind, name in ((bool, "boolean"), (int | float, "number"), (str, "text"), (list, "list")):
        if isinstance(value, kind):
            return f"an empty {name}" if value in ("", []) else f"a {name}"
    if isinstance(value, dict):
        return "an object"
    return "null" if value is None else f"a value of type {type(value).__name__}"

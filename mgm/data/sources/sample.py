"""Training samples in the published JSON format, read and checked."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgm.data.sources.text_checks import JSON, text_fault
from mgm.data.text.conversation import Segment, Turn, move_image_first, training_segments
from mgm.data.text.templates import IMAGE_MARKER, Template
from mgm.errors import MGMError, one_line

HUMAN, MODEL = "human", "gpt"  # the two roles in the files


class SampleError(MGMError):
    """What is wrong with one sample.

    Attributes:
        kind: "malformed", "roles", "no answer" or "markers".
    """

    def __init__(self, message: str, kind: str = "malformed") -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Sample:
    """A conversation and its images.

    Attributes:
        turns: questions with their answers; the last question may have none.
        images: in the order of their markers: image files as the data file names them, or, of
            tables and tars, the bytes of image files.
        greeting: what the model says before the first question.
    """

    turns: tuple[Turn, ...]
    images: tuple[str | bytes, ...] = ()
    greeting: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """The images that are files, as the data file names them."""
        return tuple(image for image in self.images if isinstance(image, str))

    @property
    def words(self) -> int:
        """Words of all messages, an image marker counted as one."""
        texts = [self.greeting, *(text for turn in self.turns for text in turn)]
        return sum(len(text.split()) for text in texts if text)

    def segments(self, template: Template) -> list[Segment]:
        """The text to learn this sample from, written as `template` says."""
        turns = self.turns
        if self.images:
            turns = tuple(
                (move_image_first(question), answer and move_image_first(answer))
                for question, answer in turns
            )
        return training_segments(template, turns, self.greeting)


def read_samples(
    path: str | os.PathLike[str], on_fault: Callable[[int, MGMError], None] | None = None
) -> dict[int, Sample]:
    """All samples of a file by their places in it, checked.

    Args:
        path: a JSON file with a list of samples, or a .jsonl file with one in each line.
        on_fault: is told of a malformed sample, which is left out; None: the fault is raised.

    Raises:
        MGMError: the file cannot be read or a sample is malformed; names the file and the sample.
    """
    raw = raw_samples(path)
    samples: dict[int, Sample] = {}
    for index, entry in enumerate(raw):
        try:
            samples[index] = check_sample(entry, f"{Path(path)}: sample {index}")
        except SampleError as fault:
            if on_fault is None:
                raise
            on_fault(index, fault)
    if not samples:
        raise MGMError(f"{Path(path)}: none of its {len(raw)} samples can be used; mend them")
    return samples


def raw_samples(path: str | os.PathLike[str]) -> list[Any]:
    """The samples of a file as they stand there; a line that is no JSON is a `SampleError`.

    Raises:
        MGMError: the file as a whole cannot be read.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")  # some programs begin files with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(file, error) from error
    content = _parse_lines(text, file) if file.suffix == ".jsonl" else parse(text, f"{file}")
    if not isinstance(content, list):
        raise MGMError(
            f"{file}: holds {_kind(content)}, not a list of samples; "
            "put the samples between [ and ], or one in each line of a .jsonl file"
        )
    if not content:
        raise MGMError(f"{file}: holds no sample; give at least one")
    return content


def unreadable(file: Path, error: Exception) -> MGMError:
    """What to say of a file whose bytes cannot be had."""
    reason = getattr(error, "strerror", None) or error
    return MGMError(f"{file}: cannot be read ({one_line(reason)}); give a JSON file with samples")


def check_sample(raw: Any, where: str) -> Sample:
    """The sample that a parsed JSON object describes; fields that are not known are ignored.

    Args:
        raw: `conversations`, a list of `{"from": ..., "value": ...}`, and `image`, a path or
            a list of paths.
        where: what errors begin with.

    Raises:
        SampleError: a field is missing, the roles do not alternate, nothing is there to learn, or
            image markers stand before the first question or are not as many as the images.
    """
    if isinstance(raw, SampleError):
        raise raw
    if not isinstance(raw, dict):
        raise SampleError(f"{where}: is {_kind(raw)}; give an object with 'conversations'")
    messages = raw.get("conversations")
    if not isinstance(messages, list) or not messages:
        found = "has no" if "conversations" not in raw else f"has {_kind(messages)} as"
        raise SampleError(f"{where}: {found} conversations; give a list of messages")
    texts = [_text(message, index, where) for index, message in enumerate(messages)]
    greeting = texts.pop(0) if messages[0]["from"] == MODEL else None
    if greeting is not None and IMAGE_MARKER in greeting:
        raise SampleError(
            f"{where}: message 0, before the first question, holds an {IMAGE_MARKER} marker; "
            "put it into a question",
            "markers",
        )
    shift = len(messages) - len(texts)
    for index, message in enumerate(messages[shift:]):
        expected = (HUMAN, MODEL)[index % 2]
        if message["from"] != expected:
            raise SampleError(
                f"{where}: message {index + shift} is from {message['from']!r} where {expected!r} "
                "comes next; roles alternate",
                "roles",
            )
    if len(texts) < 2:
        raise SampleError(
            f"{where}: has no answer to learn; add a message from {MODEL!r}", "no answer"
        )
    answers: list[str | None] = [*texts[1::2], None]
    turns = tuple(zip(texts[::2], answers, strict=False))
    images = _images(raw.get("image"), where)
    markers = sum(text.count(IMAGE_MARKER) for text in texts)
    if markers != len(images):
        raise SampleError(
            f"{where}: {markers} {IMAGE_MARKER} marker{'s' * (markers != 1)} but {len(images)} "
            f"image{'s' * (len(images) != 1)} in field 'image'; give one image for each marker",
            "markers",
        )
    return checked_sample(Sample(turns, images, greeting), where)


def checked_sample(sample: Sample, where: str) -> Sample:
    """`sample`, if its texts and image names can be used and there is a word or an image in it.

    Args:
        sample: as it was read.
        where: what errors begin with.

    Raises:
        SampleError: says which message or image cannot be used, and why.
    """
    messages = [] if sample.greeting is None else [sample.greeting]
    messages += [text for turn in sample.turns for text in turn if text is not None]
    named = [(f"message {number}", text) for number, text in enumerate(messages)]
    named += [
        (f"the name of image {number}", image)
        for number, image in enumerate(sample.images, start=1)
        if isinstance(image, str)
    ]
    for name, text in named:
        if fault := text_fault(text):
            raise SampleError(f"{where}: {name} {fault}")
    if not sample.images and not sample.words:
        raise SampleError(f"{where}: has no words in any message; take it out", "no answer")
    return sample


def _text(message: Any, index: int, where: str) -> str:
    if not isinstance(message, dict):
        raise SampleError(
            f"{where}: message {index} is {_kind(message)}; give an object with 'from' and 'value'"
        )
    for field in ("from", "value"):
        if not isinstance(message.get(field), str):
            found = "no" if field not in message else _kind(message[field]) + " as"
            raise SampleError(f"{where}: message {index} has {found} {field!r}; give a text")
    if message["from"] not in (HUMAN, MODEL):
        raise SampleError(
            f"{where}: message {index} is from {message['from']!r}; choose {HUMAN!r} or {MODEL!r}",
            "roles",
        )
    return message["value"]


def _images(found: Any, where: str) -> tuple[str | bytes, ...]:
    images = [] if found is None else [found] if isinstance(found, str) else found
    if not isinstance(images, list):
        raise SampleError(f"{where}: has {_kind(found)} as 'image'; give a path or a list of paths")
    for number, image in enumerate(images, start=1):
        if not isinstance(image, str | bytes) or not image:
            raise SampleError(
                f"{where}: has {_kind(image)} as image {number} of {len(images)} in 'image'; "
                "give a path"
            )
    return tuple(images)


def parse(text: str, where: str) -> Any:
    """The content of JSON; raises a `SampleError` that begins with `where`."""
    try:
        return JSON.decode(text)
    except (ValueError, RecursionError) as error:
        raise SampleError(
            f"{where}: is not valid JSON ({one_line(error)}); mend it there, or write it again"
        ) from error


def _parse_lines(text: str, file: Path) -> list[Any]:
    """What each line holds; empty ones are passed over."""
    content: list[Any] = []
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            if line.strip():
                content.append(parse(line, f"{file}: line {number}"))
        except SampleError as fault:
            content.append(fault)
    return content


def _kind(value: Any) -> str:
    """What JSON calls it."""
    for kind, name in ((bool, "boolean"), (int | float, "number"), (str, "text"), (list, "list")):
        if isinstance(value, kind):
            return f"an empty {name}" if value in ("", []) else f"a {name}"
    return "an object" if isinstance(value, dict) else "null"

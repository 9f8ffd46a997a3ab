"""What is asked of a model, and what it says."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mgm.data.images.loading import ImageSource
from mgm.data.images.orientation import STORED

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Question:
    """One question of a benchmark.

    Attributes:
        id: no other question of the benchmark has it.
        text: that the model reads, after the images.
        images: it is about.
        answer: what is right, in the benchmark's own form; None: nobody tells.
        group: questions of one group are not independent, such as those about one image.
        category: what kind of question it is; empty: there are no kinds.
        max_new_tokens: of an answer.
        system: text before the conversation; None: the template's own.
        orientation: of the images, "stored" or "upright" (see `open_image`).
        facts: what parser, scorer or submission need besides.
        source_index: of the row in the file that its harness reads: VLMEvalKit's `index`, or
            lmms-eval's `doc_id`; None: it is not from there.
    """

    id: str
    text: str
    images: tuple[ImageSource, ...] = ()
    answer: Any = None
    group: str = ""
    category: str = ""
    max_new_tokens: int = 128
    system: str | None = None
    orientation: str = STORED
    facts: Mapping[str, Any] = field(default_factory=dict)
    source_index: str | None = None


@dataclass(frozen=True)
class Answered:
    """A question and what a model says to it, in characters that every file can hold."""

    question: Question
    text: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", valid_text(self.text))


@dataclass(frozen=True)
class SkippedQuestion:
    """A question that is left out of a score.

    Attributes:
        id: of the question, or where its record is in the benchmark's files.
        reason: why it could not be asked or scored, in one line.
    """

    id: str
    reason: str


def valid_text(text: str) -> str:
    """A text whose halves of surrogate pairs, which UTF-8 cannot hold, are replaced by U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)

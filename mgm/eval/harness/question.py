"""What is asked of a model, and what it says."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

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
    """A question and what a model says to it, in characters that every file can hold.

    Attributes:
        question: that was asked.
        text: the answer.
        finish_reason: "length" where the token limit cut the answer, else "stop"; None: unknown, as
            of answers from a file.
        prompt_tokens: of the question with its images; None: unknown.
        completion_tokens: of the answer; None: unknown.
    """

    question: Question
    text: str
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", valid_text(self.text))


class Credit(float):
    """How right an answer is, with what it adds to a score that is a ratio of two sums.

    F1 and relative marks are such scores; a plain float adds itself and 1.

    Attributes:
        numerator: added to the sum above the line.
        denominator: added to the sum below it; 0: the answer does not count.
        note: what there is to know about how it came about, such as a judge without a mark.
    """

    numerator: float
    denominator: float
    note: str

    # The defaults let copies be made, which carry over the attributes afterwards.
    def __new__(
        cls,
        value: float,
        numerator: float | None = None,
        denominator: float = 1.0,
        note: str = "",
    ) -> Self:
        """A credit; without a numerator it adds itself."""
        credit = super().__new__(cls, value)
        credit.numerator = float(value if numerator is None else numerator)
        credit.denominator = float(denominator)
        credit.note = note
        return credit


def ratio_of_sums(credits: Sequence[float]) -> float:
    """The sum of the credits' numerators over that of their denominators; 0 where none counts."""
    numerator = sum(getattr(one, "numerator", one) for one in credits)
    denominator = sum(getattr(one, "denominator", 1.0) for one in credits)
    return numerator / denominator if denominator > 0 else 0.0


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

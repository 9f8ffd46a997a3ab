"""What is asked of a model, and what it says."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mgm.data.images.loading import ImageSource
from mgm.data.images.orientation import STORED
from mgm.errors import MGMError, one_line

# What code raises that reads a record or an answer which is not as it expects.
DATA_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
)
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
        source_index: of its row in the file that a harness reads, as the harness writes it beside
            an answer: "index 17" (VLMEvalKit) or "doc_id 17" (lmms-eval); None: it is from neither.
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


def question_or_skip(where: str, make: Callable[[], Question]) -> Question | SkippedQuestion:
    """The question that is made of a record, or why it cannot be.

    Args:
        where: the record is in its file.
        make: makes it; may raise an MGMError, or any of `DATA_ERRORS`.
    """
    try:
        return make()
    except MGMError as error:
        return SkippedQuestion(where, str(error))
    except DATA_ERRORS as error:
        reason = f"is no record of this benchmark ({type(error).__name__}: {error})"
        return SkippedQuestion(where, one_line(reason)[:300])


def valid_text(text: str) -> str:
    """A text whose halves of surrogate pairs, which UTF-8 cannot hold, are replaced by U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)

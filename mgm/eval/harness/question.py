"""What is asked of a model, and what it says."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from mgm.data.images.loading import ImageSource
from mgm.data.images.orientation import STORED
from mgm.errors import MGMError, one_line

# What is known of an answer besides its text, and its types.
RESPONSE_DETAILS = {
    "finish_reason": str, "prompt_tokens": int, "completion_tokens": int, "seconds": int | float,
    "sampled": bool,
}  # fmt: skip
MAX_COUNT = 2**53  # of tokens: what every reader of JSON takes exactly
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
        target: the reference answer, in the form that the benchmark has it in; None: not public.
        group: questions of one group are not independent, such as those about one image.
        category: what kind of question it is; empty: there are no kinds.
        max_new_tokens: of an answer.
        system: text before the conversation; None: the template's own.
        orientation: of the images, "stored" or "upright" (see `open_image`).
        metadata: what parser, scorer or submission need besides.
        source_index: of its row in the file that a harness reads, as the harness writes it beside
            an answer: "index 17" (VLMEvalKit) or "doc_id 17" (lmms-eval); None: it is from neither.
    """

    id: str
    text: str
    images: tuple[ImageSource, ...] = ()
    target: Any = None
    group: str = ""
    category: str = ""
    max_new_tokens: int = 128
    system: str | None = None
    orientation: str = STORED
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source_index: str | None = None


@dataclass(frozen=True)
class Response:
    """A question and what a model says to it, in characters that every file can hold.

    Attributes:
        question: that was asked.
        text: the answer.
        finish_reason: "length" where the token limit cut the answer, else "stop"; None: unknown, as
            of answers from a file.
        prompt_tokens: of the question with its images; None: unknown.
        completion_tokens: of the answer; None: unknown.
        seconds: from the previous answer of the same process to this one (answers of a batch arrive
            together: the first has nearly all of its time); None: unknown.
        sampled: True where the server took no temperature, so that the answer may not be greedy.
    """

    question: Question
    text: str
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float | None = None
    sampled: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", valid_text(self.text))

    @property
    def details(self) -> dict[str, Any]:
        """What is known besides the text, by the names in `RESPONSE_DETAILS`."""
        values = {name: getattr(self, name) for name in RESPONSE_DETAILS}
        return {name: value for name, value in values.items() if value is not None}


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


def is_count(value: object) -> bool:
    """Whether a value that was read is a number of tokens."""
    return type(value) is int and 0 <= value <= MAX_COUNT


def is_detail(name: str, value: object) -> bool:
    """Whether a value that was read can be the one of `RESPONSE_DETAILS` that has this name."""
    kind = RESPONSE_DETAILS[name]
    if kind is int:
        return is_count(value)
    if kind is bool or kind is str:
        return isinstance(value, kind)
    # JSON of Python may hold NaN and Infinity, which no other program reads.
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value <= MAX_COUNT


def valid_text(text: str) -> str:
    """A text whose halves of surrogate pairs, which UTF-8 cannot hold, are replaced by U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)

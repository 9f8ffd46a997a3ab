"""Questions, responses and credits of benchmarks."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from mgm.data.images.loading import ImageSource
from mgm.data.images.orientation import STORED
from mgm.errors import MGMError, one_line

# Fields of a response besides its text, with their types.
RESPONSE_DETAILS = {
    "finish_reason": str, "prompt_tokens": int, "completion_tokens": int, "seconds": int | float,
    "sampled": bool,
}  # fmt: skip
MAX_COUNT = 2**53  # maximum token count: integers up to it are exact in all JSON parsers
# Raised by code that reads records and responses of an unexpected form.
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
        id: unique within the benchmark.
        text: the prompt, which follows the images.
        images: images of the prompt.
        target: the reference answer, in the form that the benchmark has it in; None: not public.
        group: cluster of dependent questions, such as those about one image.
        category: category for scores by category; empty: none.
        max_new_tokens: maximum tokens of the response.
        system: system prompt; None: that of the template.
        orientation: orientation of the images, "stored" or "upright" (see `open_image`).
        metadata: further fields for parser, scorer or submission.
        source_index: row in the file of a harness, in the notation of predictions files:
            "index 17" (VLMEvalKit) or "doc_id 17" (lmms-eval); None: from neither.
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
    """A model's response to a question, as valid Unicode.

    Attributes:
        question: the question.
        text: text of the response.
        finish_reason: "length" at the token limit, else "stop"; None: unknown, as in files.
        prompt_tokens: prompt tokens of the question with its images; None: unknown.
        completion_tokens: completion tokens of the response; None: unknown.
        seconds: since the previous response in the same process (those of a batch arrive together:
            the first has nearly all of the batch's time); None: unknown.
        sampled: True if the server supports no temperature, so that decoding may not be greedy.
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
        """The known fields of `RESPONSE_DETAILS`."""
        values = {name: getattr(self, name) for name in RESPONSE_DETAILS}
        return {name: value for name, value in values.items() if value is not None}


class Credit(float):
    """The score of one response from 0 to 1, with its terms in a score that is a ratio of sums.

    F1 and relative scores are ratios of sums. A plain float has itself as numerator and 1 as
    denominator.

    Attributes:
        numerator: term in the numerator.
        denominator: term in the denominator; 0: the response does not count.
        note: remark for the report, such as a judge whose reply had no score.
    """

    numerator: float
    denominator: float
    note: str

    # Defaults are needed by `copy`, which sets attributes after creation.
    def __new__(
        cls,
        value: float,
        numerator: float | None = None,
        denominator: float = 1.0,
        note: str = "",
    ) -> Self:
        """Create a credit; the default numerator is the value."""
        credit = super().__new__(cls, value)
        credit.numerator = float(value if numerator is None else numerator)
        credit.denominator = float(denominator)
        credit.note = note
        return credit


def ratio_of_sums(credits: Sequence[float]) -> float:
    """The sum of numerators over the sum of denominators; 0 if that is 0."""
    numerator = sum(getattr(one, "numerator", one) for one in credits)
    denominator = sum(getattr(one, "denominator", 1.0) for one in credits)
    return numerator / denominator if denominator > 0 else 0.0


def macro_average(names: Sequence[str], credits: Sequence[float]) -> float:
    """The macro average: the mean over names of each name's mean credit, in per cent.

    Args:
        names: group of each credit.
        credits: credits from 0 to 1.
    """
    credits_by_name: dict[str, list[float]] = defaultdict(list)
    for name, credit in zip(names, credits, strict=True):
        credits_by_name[name].append(credit)
    return (
        100
        * sum(sum(values) / len(values) for values in credits_by_name.values())
        / len(credits_by_name)
    )


@dataclass(frozen=True)
class SkippedQuestion:
    """A question that is excluded from a score.

    Attributes:
        id: id of the question, or the location of its record in the benchmark's files.
        reason: why there is no response or credit, in one line.
    """

    id: str
    reason: str


def question_or_skip(where: str, make: Callable[[], Question]) -> Question | SkippedQuestion:
    """Create a question from a record, with errors as `SkippedQuestion`.

    Args:
        where: location of the record in its file.
        make: creates the question; may raise an MGMError, or any of `DATA_ERRORS`.
    """
    try:
        return make()
    except MGMError as error:
        return SkippedQuestion(where, str(error))
    except DATA_ERRORS as error:
        reason = f"is not a record of this benchmark ({type(error).__name__}: {error})"
        return SkippedQuestion(where, one_line(reason)[:300])


def is_count(value: object) -> bool:
    """Whether a value from a file is a valid number of tokens."""
    return type(value) is int and 0 <= value <= MAX_COUNT


def is_detail(name: str, value: object) -> bool:
    """Whether a value from a file is valid for a field of `RESPONSE_DETAILS`."""
    kind = RESPONSE_DETAILS[name]
    if kind is int:
        return is_count(value)
    if kind is bool or kind is str:
        return isinstance(value, kind)
    # Python reads NaN and Infinity in JSON; other programs do not.
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value <= MAX_COUNT


def valid_text(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode, by U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)

"""What is asked of a model, and what it says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mgm.data.images.loading import ImageSource
from mgm.data.images.orientation import STORED


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


@dataclass(frozen=True)
class Answered:
    """A question and what a model says to it."""

    question: Question
    text: str

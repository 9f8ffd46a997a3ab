"""What every benchmark has: questions, credit for answers, and a score made of it."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mgm.errors import MGMError
from mgm.eval.judge import Judge
from mgm.eval.question import Answered, Question

PROTOCOLS = PAPER, LMMS_EVAL, VLMEVALKIT, OFFICIAL = "paper", "lmms-eval", "vlmevalkit", "official"


@dataclass(frozen=True)
class Needed:
    """A file or folder that a benchmark reads.

    Attributes:
        path: below the benchmark's folder.
        source: where it comes from, for people.
        url: where it can be had; None: by hand alone.
        md5: of the file; None: it is not known, or a folder.
    """

    path: str
    source: str
    url: str | None = None
    md5: str | None = None


class Benchmark(ABC):
    """Questions with a scorer.

    Attributes:
        name: on the command line.
        title: for people.
        folder: of its files, below the data folder.
        splits: there are; the first is the usual one.
        sizes: questions of each split, by which a score is known to be complete.
        protocols: ways to ask and score that are offered; the first is the usual one.
        metric: what the score is called.
        scored: splits whose answers are public; others make a file to submit.
        judged: whether answers are scored by a language model where there is one.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    folder: ClassVar[str]
    splits: ClassVar[tuple[str, ...]]
    sizes: ClassVar[Mapping[str, int]]
    protocols: ClassVar[tuple[str, ...]] = (PAPER,)
    metric: ClassVar[str] = "accuracy"
    scored: ClassVar[tuple[str, ...]]
    judged: ClassVar[bool] = False

    @abstractmethod
    def needs(self, split: str) -> list[Needed]:
        """What has to lie in the benchmark's folder."""

    @abstractmethod
    def questions(self, folder: Path, split: str, protocol: str) -> Iterator[Question]:
        """All questions, in the order of the files.

        Args:
            folder: the benchmark's.
            split: one of `splits`.
            protocol: one of `protocols`.

        Raises:
            MGMError: a file is missing or damaged.
        """

    @abstractmethod
    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """How right an answer is, from 0 to 1.

        Raises:
            MGMError: a judge was asked, and does not answer.
        """

    def combine(self, questions: Sequence[Question], credits: Sequence[float]) -> float:
        """The score of questions with their credits; here the mean in per cent."""
        return 100 * sum(credits) / len(credits)

    def is_mean(self) -> bool:
        """Whether the score is the mean of the credits, whose error has a formula."""
        return type(self).combine is Benchmark.combine

    def parts(
        self, questions: Sequence[Question], credits: Sequence[float]
    ) -> dict[str, tuple[float, int]]:
        """The score of every category, and its number of questions."""
        kinds: dict[str, list[int]] = defaultdict(list)
        for place, question in enumerate(questions):
            if question.category:
                kinds[question.category].append(place)
        return {
            kind: (
                self.combine([questions[n] for n in places], [credits[n] for n in places]),
                len(places),
            )
            for kind, places in sorted(kinds.items())
        }

    def submission(self, answered: Sequence[Answered], folder: Path, split: str) -> list[Path]:
        """Write the files that the published scripts leave, or a server takes; returns them."""
        return []

    def check(self, split: str, protocol: str) -> None:
        """Raise an MGMError if there is no such split or protocol."""
        for kind, value, valid in (
            ("split", split, self.splits),
            ("protocol", protocol, self.protocols),
        ):
            if value not in valid:
                raise MGMError(
                    f"{self.name}: there is no {kind} {value!r}; choose from {', '.join(valid)}"
                )

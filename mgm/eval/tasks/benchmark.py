"""What every benchmark has: questions, credit for answers, and a score made of it."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from mgm.data.images.orientation import STORED, UPRIGHT
from mgm.errors import MGMError
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import (
    DATA_ERRORS,
    Question,
    Response,
    SkippedQuestion,
    question_or_skip,
)
from mgm.eval.metrics.vlmevalkit import as_read_back, inferred_letter
from mgm.eval.tasks.dataset_source import HubFiles, RequiredFile, Source
from mgm.eval.tasks.thinking import strip_thinking

PROTOCOLS = PAPER, LMMS_EVAL, VLMEVALKIT, OFFICIAL = "paper", "lmms-eval", "vlmevalkit", "official"


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
        scored_splits: splits whose answers are public; others make a file to submit.
        judged: protocols in which a language model scores answers, where there is one.
        sources: what others' protocols read instead of the published files, by split and protocol.
        also_published: whether the published files do where a source is not there: they hold the
            same questions.
        published_splits: those of the published files; None: all.
        other_folders: names that `folder` has elsewhere, such as in the published README.
        headline: parts that stand for the score in tables, such as MME's perception and cognition.
        combine_metadata: keys of `Question.metadata` that `combine` reads, besides `group`,
            `category` and `target`. They are saved in score.json, to combine subsets again.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    folder: ClassVar[str]
    splits: ClassVar[tuple[str, ...]]
    sizes: ClassVar[Mapping[str, int]]
    protocols: ClassVar[tuple[str, ...]] = (PAPER,)
    metric: ClassVar[str] = "accuracy"
    scored_splits: ClassVar[tuple[str, ...]]
    judged: ClassVar[tuple[str, ...]] = ()
    sources: ClassVar[Mapping[tuple[str, str], Source]] = {}
    also_published: ClassVar[bool] = False
    published_splits: ClassVar[tuple[str, ...] | None] = None
    other_folders: ClassVar[tuple[str, ...]] = ()
    headline: ClassVar[tuple[str, ...]] = ()
    combine_metadata: ClassVar[tuple[str, ...]] = ()

    def published_files(self, split: str) -> list[RequiredFile]:
        """What has to lie in the benchmark's folder for the published protocol, if it has one."""
        return []

    def required_files(self, split: str, protocol: str) -> list[RequiredFile]:
        """What has to lie in the benchmark's folder."""
        source = self.sources.get((split, protocol))
        return self.published_files(split) if source is None else source.required_files()

    def protocols_of(self, split: str) -> list[str]:
        """The protocols that a split is offered in."""
        elsewhere = set() if self.also_published else {protocol for _, protocol in self.sources}
        here = self.published_splits is None or split in self.published_splits
        return [
            protocol
            for protocol in self.protocols
            if (split, protocol) in self.sources or (here and protocol not in elsewhere)
        ]

    def expected(self, split: str, protocol: str) -> int | None:
        """How many questions there are; None: nobody knows."""
        source = self.sources.get((split, protocol))
        return self.sizes.get(split) if source is None else source.size

    def folder_in(self, data: Path) -> Path:
        """The benchmark's folder below the data folder, which may have a published name."""
        folders = [data / name for name in (self.folder, *self.other_folders)]
        return next((folder for folder in folders if folder.is_dir()), folders[0])

    def questions(
        self,
        folder: Path,
        split: str,
        protocol: str,
        skipped: list[SkippedQuestion] | None = None,
    ) -> Iterator[Question]:
        """All questions, in the order of the files.

        Args:
            folder: the benchmark's.
            split: one of `splits`.
            protocol: one of `protocols_of(split)`.
            skipped: takes the records that are no questions, and those whose id came before; None:
                the first of them raises.

        Raises:
            MGMError: a file is missing or damaged.
        """
        orientation = self.orientation(split, protocol)
        ids: set[str] = set()
        try:
            for question in self._questions(folder, split, protocol):
                if isinstance(question, Question) and question.id in ids:
                    question = SkippedQuestion(question.id, "another question before has this id")
                if isinstance(question, Question):
                    ids.add(question.id)
                    yield replace(question, orientation=orientation)
                elif skipped is None:
                    raise MGMError(f"{folder}, {question.id}: {question.reason}")
                else:
                    skipped.append(question)
        except DATA_ERRORS as error:
            if isinstance(error, MGMError):
                raise
            reason = f"{type(error).__name__}: {error}"[:200]
            raise MGMError(f"{folder}: a file is none of {self.title} ({reason})") from error

    def orientation(self, split: str, protocol: str) -> str:
        """How the protocol's harness shows images to a model.

        lmms-eval has them from the library `datasets`, whose `Image.decode_example` turns them.
        VLMEvalKit (`decode_base64_to_image`) and the published evaluation do not.
        """
        hub = isinstance(self.sources.get((split, protocol)), HubFiles)
        return UPRIGHT if protocol == LMMS_EVAL or (hub and protocol != PAPER) else STORED

    def _questions(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        source = self.sources.get((split, protocol))
        if source is None or (self.also_published and not source.is_there(folder)):
            yield from self.published_questions(folder, split, protocol)
            return
        for number, (row, images) in enumerate(source.rows(folder), start=1):
            where = f"row {number}"
            if isinstance(images, MGMError):
                yield SkippedQuestion(where, str(images))
                continue
            hub = isinstance(source, HubFiles)
            index = f"doc_id {number - 1}" if hub else f"index {row.get('index')}"
            make = partial(self.row_to_question, row, images, protocol, number)
            question = question_or_skip(where, make)
            if isinstance(question, Question):
                asked = {"question": str(row["question"])} if row.get("question") else {}
                question = replace(
                    question, source_index=index, metadata=asked | dict(question.metadata)
                )
            yield question

    def published_questions(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """The questions of the published files, if there are any; see `questions`."""
        return iter(())

    def row_to_question(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """The question in a row of one of `sources`.

        Args:
            row: its fields.
            images: that come with it.
            protocol: by which is asked.
            number: of the row.

        Raises:
            KeyError: a field is missing.
        """
        raise NotImplementedError

    def filter_response(
        self, response: Response, protocol: str, without_thinking: bool = False
    ) -> Response:
        """An answer as `credit` takes it: lmms-eval scores it without its blocks of reasoning.

        Args:
            response: as the model wrote it.
            protocol: by which is scored.
            without_thinking: whether other protocols score it without them, too.
        """
        if protocol != LMMS_EVAL and not without_thinking:
            return response
        return replace(response, text=strip_thinking(response.text))

    @abstractmethod
    def score_one(self, response: Response, protocol: str, judge: Judge) -> float:
        """How right an answer is, from 0 to 1.

        Raises:
            MGMError: a judge was asked, and does not answer.
        """

    def parse(self, response: Response, protocol: str) -> str | None:
        """What the scorer reads in an answer, such as a letter, yes or no, or a number.

        It is shown beside the answer and does not decide the credit.

        Returns:
            Empty where it finds nothing in the answer; None where the whole text is scored. Here:
            the letter that VLMEvalKit's rules find where it lists choices.
        """
        choices = response.question.metadata.get("choices")
        if protocol != VLMEVALKIT or not isinstance(choices, Mapping):
            return None
        return inferred_letter(as_read_back(response.text), choices) or ""

    def highest(self, questions: Sequence[Question], part: str = "") -> float | None:
        """The largest value of the score of some questions, or of one of their `parts`.

        Intervals keep to it. None: there is no bound. The smallest value is 0.
        """
        return 100.0

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

    def prediction_ids(self, question: Question) -> set[str]:
        """What a question is called in files of answers, besides its `source_index`."""
        return {str(question.metadata.get("question_id", question.id))}

    def submission(self, responses: Sequence[Response], folder: Path, split: str) -> list[Path]:
        """Write the files that the published scripts leave, or a server takes; returns them."""
        return []

    def check(self, split: str, protocol: str) -> None:
        """Raise an MGMError if there is no such split or protocol."""
        if split not in self.splits:
            raise MGMError(
                f"{self.name}: there is no split {split!r}; choose from {', '.join(self.splits)}"
            )
        valid = self.protocols_of(split)
        if protocol not in valid:
            raise MGMError(
                f"{self.name}:{split}: there is no protocol {protocol!r}; choose from "
                f"{', '.join(valid)}"
            )


def row_id(row: Mapping[str, Any], number: int) -> str:
    """What a row of a data set calls its question; without such a column its number from 0.

    Both harnesses count rows from 0: a number from 1 would be the name of another question.

    Args:
        row: its fields.
        number: of the row, from 1.
    """
    names = ("question_id", "index", "Index")
    return str(next((row[name] for name in names if name in row), number - 1))


def mean_of_means(names: Sequence[str], credits: Sequence[float]) -> float:
    """The mean of each name's mean credit, in per cent.

    Args:
        names: what each credit belongs to.
        credits: from 0 to 1.
    """
    own: dict[str, list[float]] = defaultdict(list)
    for name, credit in zip(names, credits, strict=True):
        own[name].append(credit)
    return 100 * sum(sum(some) / len(some) for some in own.values()) / len(own)

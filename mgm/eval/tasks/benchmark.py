"""Base class of benchmarks: loads questions, scores responses, aggregates credits to a metric."""

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
from mgm.eval.metrics.vlmevalkit import as_stored, infer_letter
from mgm.eval.tasks.dataset_source import BenchmarkSource, HubFiles, RequiredFile
from mgm.eval.tasks.thinking import strip_thinking

PROTOCOLS = PAPER, LMMS_EVAL, VLMEVALKIT, OFFICIAL = "paper", "lmms-eval", "vlmevalkit", "official"


class Benchmark(ABC):
    """A benchmark: its questions, prompts, scoring rules and metric.

    Attributes:
        name: name on the command line.
        title: title in reports.
        folder: folder of its files, below the data folder.
        splits: the first is the default.
        sizes: number of questions of each split, to detect partial scores.
        protocols: prompts and scoring rules; the first is the default.
        metric: name of the score.
        scored_splits: splits with public targets; the others produce a submission file.
        judged: protocols in which an LLM judge scores responses, if there is one.
        sources: data sources by split and protocol, in place of the published files.
        also_published: whether the published files replace a missing source: they have the same
            questions.
        published_splits: splits of the published files; None: all.
        other_folders: further names of `folder`, such as that in the published README.
        headline: parts to show as the score in tables, such as MME's perception and cognition.
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
    sources: ClassVar[Mapping[tuple[str, str], BenchmarkSource]] = {}
    also_published: ClassVar[bool] = False
    published_splits: ClassVar[tuple[str, ...] | None] = None
    other_folders: ClassVar[tuple[str, ...]] = ()
    headline: ClassVar[tuple[str, ...]] = ()
    combine_metadata: ClassVar[tuple[str, ...]] = ()

    def published_files(self, split: str) -> list[RequiredFile]:
        """The files of the published evaluation to prepare in the benchmark's folder."""
        return []

    def required_files(self, split: str, protocol: str) -> list[RequiredFile]:
        """The files to prepare in the benchmark's folder for a split and protocol."""
        source = self.sources.get((split, protocol))
        return self.published_files(split) if source is None else source.required_files()

    def protocols_of(self, split: str) -> list[str]:
        """The protocols that a split supports."""
        own_source = set() if self.also_published else {protocol for _, protocol in self.sources}
        is_published = self.published_splits is None or split in self.published_splits
        return [
            protocol
            for protocol in self.protocols
            if (split, protocol) in self.sources or (is_published and protocol not in own_source)
        ]

    def expected(self, split: str, protocol: str) -> int | None:
        """The number of questions; None: unknown."""
        source = self.sources.get((split, protocol))
        return self.sizes.get(split) if source is None else source.size

    def folder_in(self, data: Path) -> Path:
        """The benchmark's folder below the data folder, by the first of its names that exists."""
        folders = [data / name for name in (self.folder, *self.other_folders)]
        return next((folder for folder in folders if folder.is_dir()), folders[0])

    def questions(
        self,
        folder: Path,
        split: str,
        protocol: str,
        skipped: list[SkippedQuestion] | None = None,
    ) -> Iterator[Question]:
        """Load all questions, in the order of the files.

        Args:
            folder: folder of the benchmark.
            split: one of `splits`.
            protocol: one of `protocols_of(split)`.
            skipped: collects damaged records and duplicate ids; None: the first of them raises.

        Raises:
            MGMError: a file is missing or damaged.
        """
        orientation = self.orientation(split, protocol)
        ids: set[str] = set()
        try:
            for question in self._questions(folder, split, protocol):
                if isinstance(question, Question) and question.id in ids:
                    question = SkippedQuestion(question.id, "duplicate question id")
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
            raise MGMError(f"{folder}: a file is not of {self.title} ({reason})") from error

    def orientation(self, split: str, protocol: str) -> str:
        """Whether the protocol's harness applies EXIF orientation to images.

        lmms-eval gets images from the library `datasets`, whose `Image.decode_example` applies it.
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
                metadata = {"question": str(row["question"])} if row.get("question") else {}
                question = replace(
                    question, source_index=index, metadata=metadata | dict(question.metadata)
                )
            yield question

    def published_questions(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """Load the questions of the published files; see `questions`. Here: none."""
        return iter(())

    def row_to_question(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """Create a question from a row of one of `sources`.

        Args:
            row: fields of the row.
            images: images of the row.
            protocol: decides prompt and target.
            number: number of the row, from 1.

        Raises:
            KeyError: a field is missing.
        """
        raise NotImplementedError

    def filter_response(
        self, response: Response, protocol: str, without_thinking: bool = False
    ) -> Response:
        """Filter a response before `score_one` and `parse`: lmms-eval removes reasoning blocks.

        Args:
            response: response of the model.
            protocol: protocol of the scoring rules.
            without_thinking: remove reasoning blocks in the other protocols too.
        """
        if protocol != LMMS_EVAL and not without_thinking:
            return response
        return replace(response, text=strip_thinking(response.text))

    @abstractmethod
    def score_one(self, response: Response, protocol: str, judge: Judge) -> float:
        """Score one response, from 0 to 1.

        Args:
            response: filtered by `filter_response`.
            protocol: protocol of the scoring rules.
            judge: judge for free-form responses.

        Raises:
            MGMError: the judge does not reply.
        """

    def parse(self, response: Response, protocol: str) -> str | None:
        """Extract the answer in a response, such as a letter, yes or no, or a number.

        Used in reports only; has no effect on the score.

        Returns:
            Empty: nothing was extracted; None: the whole text is scored. Here: the letter by
            VLMEvalKit's rules, if the question has choices.
        """
        choices = response.question.metadata.get("choices")
        if protocol != VLMEVALKIT or not isinstance(choices, Mapping):
            return None
        return infer_letter(as_stored(response.text), choices) or ""

    def highest(self, questions: Sequence[Question], part: str = "") -> float | None:
        """The maximum of the score of some questions, or of one of their `parts`; the minimum is 0.

        Intervals are clipped to it. None: no maximum.
        """
        return 100.0

    def combine(self, questions: Sequence[Question], credits: Sequence[float]) -> float:
        """Aggregate the credits of questions to the score; here the mean in per cent."""
        return 100 * sum(credits) / len(credits)

    def is_mean(self) -> bool:
        """Whether the score is the mean of the credits, which has a closed-form standard error."""
        return type(self).combine is Benchmark.combine

    def parts(
        self, questions: Sequence[Question], credits: Sequence[float]
    ) -> dict[str, tuple[float, int]]:
        """The score and the number of questions of each part; here of each category."""
        indices_by_category: dict[str, list[int]] = defaultdict(list)
        for index, question in enumerate(questions):
            if question.category:
                indices_by_category[question.category].append(index)
        return {
            category: (
                self.combine([questions[n] for n in indices], [credits[n] for n in indices]),
                len(indices),
            )
            for category, indices in sorted(indices_by_category.items())
        }

    def prediction_ids(self, question: Question) -> set[str]:
        """The ids of a question in predictions files, besides its `source_index`."""
        return {str(question.metadata.get("question_id", question.id))}

    def submission(self, responses: Sequence[Response], folder: Path, split: str) -> list[Path]:
        """Write the files of the published scripts, or of an evaluation server; returns paths."""
        return []

    def check(self, split: str, protocol: str) -> None:
        """Raise an MGMError for an unknown split or protocol."""
        if split not in self.splits:
            raise MGMError(
                f"{self.name}: unknown split {split!r}; choose from {', '.join(self.splits)}"
            )
        valid = self.protocols_of(split)
        if protocol not in valid:
            raise MGMError(
                f"{self.name}:{split}: unknown protocol {protocol!r}; choose from "
                f"{', '.join(valid)}"
            )


def row_id(row: Mapping[str, Any], number: int) -> str:
    """The id of the question in a row of a data set.

    Without an id column it is the row's index from 0, as in both harnesses.

    Args:
        row: fields of the row.
        number: number of the row, from 1.
    """
    names = ("question_id", "index", "Index")
    return str(next((row[name] for name in names if name in row), number - 1))

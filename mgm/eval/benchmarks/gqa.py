"""GQA: questions about scenes, with one right word or phrase."""

import json
import string
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from mgm.errors import MGMError
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Question, SkippedQuestion
from mgm.eval.tasks.benchmark import LMMS_EVAL, PAPER, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, Needed, Packed, images_of, matching
from mgm.eval.tasks.files import read_json
from mgm.eval.tasks.llava_format import llava_questions, write_answers
from mgm.eval.tasks.prompts import SINGLE_WORD

PUNCTUATION = str.maketrans("", "", string.punctuation)


class _HubScenes(HubFiles):
    """Questions and images lie in files of their own."""

    @property
    def pictures(self) -> str:
        """The pattern of the files with images."""
        return self.pattern.replace("instructions", "images")

    def files(self, folder: Path) -> list[Path]:
        """See `Source`."""
        return [*super().files(folder), *matching(folder, self.pictures)]

    def read(self, folder: Path) -> Iterator[Packed]:
        """See `Source`."""
        images = {
            row["id"]: images_of(row["image"], f"{self.dataset}, image {row['id']}")
            for row in self.records(folder, self.pictures)
        }
        for row in self.records(folder, self.pattern):
            fault = MGMError(f"{folder}: question {row['id']} has no image {row['imageId']}")
            yield row, images.get(row["imageId"], fault)

    def needed(self) -> list[Needed]:
        """See `Source`."""
        (questions,) = super().needed()
        return [questions, replace(questions, path=self.pictures)]


class GQA(Benchmark):
    """Exact answers."""

    name, title, folder = "gqa", "GQA", "gqa"
    splits = scored = ("testdev",)
    sizes: ClassVar = {"testdev": 12578}
    protocols = (PAPER, LMMS_EVAL)
    sources: ClassVar = {
        ("testdev", LMMS_EVAL): _HubScenes(
            "lmms-lab-encoder/GQA", "testdev_balanced_instructions/testdev-*.parquet", 12578
        )
    }

    def needs(self, split: str) -> list[Needed]:
        """Questions, answers and images."""
        site = "https://downloads.cs.stanford.edu/nlp/data/gqa"
        return [
            Needed("llava_gqa_testdev_balanced.jsonl", "eval.zip of LLaVA's docs/Evaluation.md"),
            Needed("data/testdev_balanced_questions.json", "GQA", f"{site}/questions1.2.zip"),
            Needed("data/images", "GQA, unpacked", f"{site}/images.zip"),
        ]

    def published(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """See `Benchmark`."""
        file = folder / "data" / "testdev_balanced_questions.json"
        truths = read_json(file)
        questions = folder / "llava_gqa_testdev_balanced.jsonl"

        def complete(question: Question, index: int) -> Question:
            truth = truths.get(question.id)
            if truth is None:
                raise MGMError(f"{file}: has no question {question.id}")
            kind = truth.get("types", {}).get("structural", "")
            return replace(question, answer=truth["answer"], category=kind)

        yield from llava_questions(questions, folder / "data" / "images", complete=complete)

    def from_row(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """See `Benchmark`."""
        return Question(
            id=str(row["id"]),
            text=f"{row['question']}\n{SINGLE_WORD}",
            images=images,
            answer=row["answer"],
            group=str(row["imageId"]),
            category=(row.get("types") or {}).get("structural") or "",
            max_new_tokens=16,
        )

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """Whether the answer is the right one; lmms-eval looks at no case and no punctuation."""
        text, answer = answered.text, answered.question.answer
        if protocol == LMMS_EVAL:
            return float(_bare(text.strip()) == _bare(answer))
        return float(submitted(text) == answer)

    def submission(self, answered: Sequence[Answered], folder: Path, split: str) -> list[Path]:
        """Answers, and what GQA's evaluator reads."""
        path = folder / "testdev_balanced_predictions.json"
        answers = write_answers(folder / "merge.jsonl", answered)
        path.write_text(json.dumps(predictions(answered)), encoding="utf-8")
        return [answers, path]


def _bare(text: str) -> str:
    # lmms-eval compares numpy's texts: lower case does not lengthen them, and no NUL ends them.
    return text.lower()[: len(text)].translate(PUNCTUATION).rstrip("\0")


def submitted(text: str) -> str:
    """Without full stops at its end, in small letters. Source: convert_gqa_for_eval.py."""
    return text.rstrip(".").lower()


def predictions(answered: Sequence[Answered]) -> list[dict[str, str]]:
    """What GQA's evaluator reads."""
    return [{"questionId": one.question.id, "prediction": submitted(one.text)} for one in answered]

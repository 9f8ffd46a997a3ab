"""GQA: compositional questions about scenes, with a word or phrase as answer."""

import json
import string
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from mgm.errors import MGMError
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response, SkippedQuestion
from mgm.eval.tasks.benchmark import LMMS_EVAL, PAPER, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, RequiredFile, RowWithImages, images_of, matching
from mgm.eval.tasks.files import load_json
from mgm.eval.tasks.llava_format import llava_questions, write_answers_file
from mgm.eval.tasks.prompts import SHORT_ANSWER_PROMPT

NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class _SceneFiles(HubFiles):
    """Parquet files of questions, and separate ones of images."""

    @property
    def image_pattern(self) -> str:
        """The glob pattern of the files with images."""
        return self.pattern.replace("instructions", "images")

    def files(self, folder: Path) -> list[Path]:
        """The downloaded files of questions and of images."""
        return [*super().files(folder), *matching(folder, self.image_pattern)]

    def read(self, folder: Path) -> Iterator[RowWithImages]:
        """Read all questions, joined with their images."""
        images = {
            row["id"]: images_of(row["image"], f"{self.dataset}, image {row['id']}")
            for row in self.records(folder, self.image_pattern)
        }
        for row in self.records(folder, self.pattern):
            missing = MGMError(f"{folder}: question {row['id']} has no image {row['imageId']}")
            yield row, images.get(row["imageId"], missing)

    def required_files(self) -> list[RequiredFile]:
        """The patterns of the files of questions and of images."""
        (questions,) = super().required_files()
        return [questions, replace(questions, path=self.image_pattern)]


class GQA(Benchmark):
    """Exact-match accuracy on testdev (balanced)."""

    name, title, folder = "gqa", "GQA", "gqa"
    splits = scored_splits = ("testdev",)
    sizes: ClassVar = {"testdev": 12578}
    protocols = (PAPER, LMMS_EVAL)
    sources: ClassVar = {
        ("testdev", LMMS_EVAL): _SceneFiles(
            "lmms-lab-encoder/GQA", "testdev_balanced_instructions/testdev-*.parquet", 12578
        )
    }

    def published_files(self, split: str) -> list[RequiredFile]:
        """LLaVA's question file, targets and images."""
        site = "https://downloads.cs.stanford.edu/nlp/data/gqa"
        return [
            RequiredFile(
                "llava_gqa_testdev_balanced.jsonl", "eval.zip of LLaVA's docs/Evaluation.md"
            ),
            RequiredFile("data/testdev_balanced_questions.json", "GQA", f"{site}/questions1.2.zip"),
            RequiredFile("data/images", "GQA, unpacked", f"{site}/images.zip"),
        ]

    def published_questions(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """Prompts of LLaVA's question file; targets of GQA's own."""
        file = folder / "data" / "testdev_balanced_questions.json"
        truths = load_json(file)
        questions = folder / "llava_gqa_testdev_balanced.jsonl"

        def add_target(question: Question, index: int) -> Question:
            truth = truths.get(question.id)
            if truth is None:
                raise MGMError(f"{file}: has no question {question.id}")
            question_type = truth.get("types", {}).get("structural", "")
            return replace(question, target=truth["answer"], category=question_type)

        yield from llava_questions(questions, folder / "data" / "images", transform=add_target)

    def row_to_question(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """lmms-eval's prompt, with the structural type as category."""
        return Question(
            id=str(row["id"]),
            text=f"{row['question']}\n{SHORT_ANSWER_PROMPT}",
            images=images,
            target=row["answer"],
            group=str(row["imageId"]),
            category=(row.get("types") or {}).get("structural") or "",
            max_new_tokens=16,
        )

    def score_one(self, response: Response, protocol: str, judge: Judge) -> float:
        """Exact match; lmms-eval ignores case and punctuation."""
        text, target = response.text, response.question.target
        if protocol == LMMS_EVAL:
            return float(_normalize(text.strip()) == _normalize(target))
        return float(official_answer(text) == target)

    def submission(self, responses: Sequence[Response], folder: Path, split: str) -> list[Path]:
        """LLaVA's answers file, and the predictions file of GQA's evaluator."""
        path = folder / "testdev_balanced_predictions.json"
        answers = write_answers_file(folder / "merge.jsonl", responses)
        path.write_text(json.dumps(official_predictions(responses)), encoding="utf-8")
        return [answers, path]


def _normalize(text: str) -> str:
    # Compat: lmms-eval compares numpy strings: lower case is truncated, trailing NULs are dropped.
    return text.lower()[: len(text)].translate(NO_PUNCTUATION).rstrip("\0")


def official_answer(text: str) -> str:
    """Lower case, without trailing periods. Source: convert_gqa_for_eval.py."""
    return text.rstrip(".").lower()


def official_predictions(responses: Sequence[Response]) -> list[dict[str, str]]:
    """The records of the predictions file of GQA's evaluator."""
    return [
        {"questionId": one.question.id, "prediction": official_answer(one.text)}
        for one in responses
    ]

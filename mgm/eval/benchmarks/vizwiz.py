"""VizWiz: questions of blind people about their photographs; known to its server alone."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Question, SkippedQuestion
from mgm.eval.metrics.vqa_accuracy import agreement, normal_answer
from mgm.eval.tasks.benchmark import LMMS_EVAL, PAPER, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, Needed
from mgm.eval.tasks.llava_format import llava_questions, write_answers
from mgm.eval.tasks.prompts import SINGLE_WORD, UNANSWERABLE


class VizWiz(Benchmark):
    """A file for the server."""

    name, title, folder = "vizwiz", "VizWiz", "vizwiz"
    splits = ("test", "val")
    published_splits = ("test",)
    scored = ("val",)
    sizes: ClassVar = {"test": 8000}
    protocols = (PAPER, LMMS_EVAL)
    sources: ClassVar = {
        ("val", LMMS_EVAL): HubFiles("lmms-lab-encoder/VizWiz-VQA", "**/val-*.parquet", 4319)
    }

    def needs(self, split: str) -> list[Needed]:
        """Questions and images."""
        site = "https://vizwiz.cs.colorado.edu/VizWiz_final/images"
        return [
            Needed("llava_test.jsonl", "eval.zip of LLaVA's docs/Evaluation.md"),
            Needed("test", "VizWiz, unpacked", f"{site}/test.zip"),
        ]

    def published(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """See `Benchmark`."""

        def complete(question: Question, index: int) -> Question:
            image = question.group
            facts = {**question.facts, "image": image, "question_id": question.id}
            return replace(question, id=f"{index}", facts=facts)

        yield from llava_questions(folder / "llava_test.jsonl", folder / "test", complete=complete)

    def from_row(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """See `Benchmark`."""
        name = str(row["question_id"])
        return Question(
            id=name,
            text=f"{row['question'].capitalize()}\n{UNANSWERABLE}\n{SINGLE_WORD}",
            images=images,
            answer=list(row["answers"]),
            group=name,
            category=row.get("category") or "",
            facts={"image": f"{name}.jpg"},
        )

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """Agreement with ten people, where they are known."""
        return agreement(answered.text, answered.question.answer or [])

    def submission(self, answered: Sequence[Answered], folder: Path, split: str) -> list[Path]:
        """Answers, and what the server takes."""
        path = folder / "vizwiz_test.json"
        answers = write_answers(folder / "answers.jsonl", answered)
        records = [
            {"image": one.question.facts["image"], "answer": normal_answer(one.text)}
            for one in answered
        ]
        path.write_text(json.dumps(records), encoding="utf-8")
        return [answers, path]

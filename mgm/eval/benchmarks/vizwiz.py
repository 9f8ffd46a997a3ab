"""VizWiz: questions of blind people about their photographs, scored by VQA accuracy."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response, SkippedQuestion
from mgm.eval.metrics.vqa_accuracy import evalai_answer, vqa_accuracy
from mgm.eval.tasks.benchmark import LMMS_EVAL, PAPER, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, RequiredFile
from mgm.eval.tasks.llava_format import llava_questions, write_answers_file
from mgm.eval.tasks.prompts import SHORT_ANSWER_PROMPT, UNANSWERABLE_PROMPT


class VizWiz(Benchmark):
    """VQA accuracy of val; for test a submission to the evaluation server."""

    name, title, folder = "vizwiz", "VizWiz", "vizwiz"
    splits = ("test", "val")
    published_splits = ("test",)
    scored_splits = ("val",)
    sizes: ClassVar = {"test": 8000}
    protocols = (PAPER, LMMS_EVAL)
    sources: ClassVar = {
        ("val", LMMS_EVAL): HubFiles("lmms-lab-encoder/VizWiz-VQA", "**/val-*.parquet", 4319)
    }

    def published_files(self, split: str) -> list[RequiredFile]:
        """Question file and images."""
        site = "https://vizwiz.cs.colorado.edu/VizWiz_final/images"
        return [
            RequiredFile("llava_test.jsonl", "eval.zip of LLaVA's docs/Evaluation.md"),
            RequiredFile("test", "VizWiz, unpacked", f"{site}/test.zip"),
        ]

    def published_questions(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """Prompts of LLaVA's question file; the targets of the test are not public."""

        def add_metadata(question: Question, index: int) -> Question:
            image = question.group
            metadata = {**question.metadata, "image": image, "question_id": question.id}
            return replace(question, id=f"{index}", metadata=metadata)

        yield from llava_questions(
            folder / "llava_test.jsonl", folder / "test", transform=add_metadata
        )

    def row_to_question(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """lmms-eval's prompt, with the instruction for unanswerable questions."""
        name = str(row["question_id"])
        return Question(
            id=name,
            text=f"{row['question'].capitalize()}\n{UNANSWERABLE_PROMPT}\n{SHORT_ANSWER_PROMPT}",
            images=images,
            target=list(row["answers"]),
            group=name,
            category=row.get("category") or "",
            metadata={"image": f"{name}.jpg"},
        )

    def score_one(self, response: Response, protocol: str, judge: Judge) -> float:
        """VQA accuracy against ten human answers; 0 without them."""
        return vqa_accuracy(response.text, response.question.target or [])

    def submission(self, responses: Sequence[Response], folder: Path, split: str) -> list[Path]:
        """LLaVA's answers file, and the upload for the evaluation server."""
        path = folder / "vizwiz_test.json"
        answers = write_answers_file(folder / "answers.jsonl", responses)
        records = [
            {"image": one.question.metadata["image"], "answer": evalai_answer(one.text)}
            for one in responses
        ]
        path.write_text(json.dumps(records), encoding="utf-8")
        return [answers, path]

"""VQAv2: questions about photographs; the answers of the test are known to its server alone."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Question, SkippedQuestion
from mgm.eval.metrics.vqa_accuracy import agreement, normal_answer, vqav2_answer
from mgm.eval.tasks.benchmark import LMMS_EVAL, PAPER, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, Needed
from mgm.eval.tasks.llava_format import llava_questions, write_answers
from mgm.eval.tasks.prompts import SINGLE_WORD


class VQAv2(Benchmark):
    """A file for the server."""

    name, title, folder = "vqav2", "VQAv2", "vqav2"
    splits = ("test-dev", "val")
    published_splits = ("test-dev",)
    scored = ("val",)
    sizes: ClassVar = {"test-dev": 107394}
    protocols = (PAPER, LMMS_EVAL)
    sources: ClassVar = {
        ("val", LMMS_EVAL): HubFiles("lmms-lab-encoder/VQAv2", "**/validation-*.parquet", 214354)
    }

    def needs(self, split: str) -> list[Needed]:
        """Questions and images."""
        return [
            Needed("llava_vqav2_mscoco_test-dev2015.jsonl", "eval.zip of LLaVA's Evaluation.md"),
            Needed("test2015", "COCO, unpacked", "http://images.cocodataset.org/zips/test2015.zip"),
        ]

    def published(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """See `Benchmark`."""
        file = folder / "llava_vqav2_mscoco_test-dev2015.jsonl"
        yield from llava_questions(file, folder / "test2015")

    def from_row(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """See `Benchmark`."""
        return Question(
            id=str(row["question_id"]),
            text=f"{row['question']}\n{SINGLE_WORD}",
            images=images,
            answer=[one["answer"] for one in row["answers"]],
            group=str(row["image_id"]),
            category=row.get("answer_type") or "",
            max_new_tokens=16,
        )

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """Agreement with ten people, where they are known."""
        normal = vqav2_answer if protocol == LMMS_EVAL else normal_answer
        return agreement(answered.text, answered.question.answer or [], normal)

    def submission(self, answered: Sequence[Answered], folder: Path, split: str) -> list[Path]:
        """Answers, and what the server takes."""
        path = folder / "vqav2_test-dev.json"
        answers = write_answers(folder / "merge.jsonl", answered)
        records = [
            {"question_id": int(one.question.id), "answer": normal_answer(one.text)}
            for one in answered
        ]
        path.write_text(json.dumps(records), encoding="utf-8")
        return [answers, path]

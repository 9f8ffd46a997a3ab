"""VQAv2: questions about photographs, scored by VQA accuracy."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response, SkippedQuestion
from mgm.eval.metrics.vqa_accuracy import evalai_answer, vqa_accuracy, vqav2_answer
from mgm.eval.tasks.benchmark import LMMS_EVAL, PAPER, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, RequiredFile
from mgm.eval.tasks.llava_format import llava_questions, write_answers_file
from mgm.eval.tasks.prompts import SHORT_ANSWER_PROMPT


class VQAv2(Benchmark):
    """VQA accuracy of val; for test-dev a submission to the evaluation server."""

    name, title, folder = "vqav2", "VQAv2", "vqav2"
    splits = ("test-dev", "val")
    published_splits = ("test-dev",)
    scored_splits = ("val",)
    sizes: ClassVar = {"test-dev": 107394}
    protocols = (PAPER, LMMS_EVAL)
    sources: ClassVar = {
        ("val", LMMS_EVAL): HubFiles("lmms-lab-encoder/VQAv2", "**/validation-*.parquet", 214354)
    }

    def published_files(self, split: str) -> list[RequiredFile]:
        """Question file and images."""
        return [
            RequiredFile(
                "llava_vqav2_mscoco_test-dev2015.jsonl", "eval.zip of LLaVA's Evaluation.md"
            ),
            RequiredFile(
                "test2015", "COCO, unpacked", "http://images.cocodataset.org/zips/test2015.zip"
            ),
        ]

    def published_questions(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """Prompts of LLaVA's question file; the targets of test-dev are not public."""
        file = folder / "llava_vqav2_mscoco_test-dev2015.jsonl"
        yield from llava_questions(file, folder / "test2015")

    def row_to_question(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """lmms-eval's prompt, with the answer type as category."""
        return Question(
            id=str(row["question_id"]),
            text=f"{row['question']}\n{SHORT_ANSWER_PROMPT}",
            images=images,
            target=[one["answer"] for one in row["answers"]],
            group=str(row["image_id"]),
            category=row.get("answer_type") or "",
            max_new_tokens=16,
        )

    def score_one(self, response: Response, protocol: str, judge: Judge) -> float:
        """VQA accuracy against ten human answers; 0 without them."""
        normal = vqav2_answer if protocol == LMMS_EVAL else evalai_answer
        return vqa_accuracy(response.text, response.question.target or [], normal)

    def submission(self, responses: Sequence[Response], folder: Path, split: str) -> list[Path]:
        """LLaVA's answers file, and the upload for the evaluation server."""
        path = folder / "vqav2_test-dev.json"
        answers = write_answers_file(folder / "merge.jsonl", responses)
        records = [
            {"question_id": int(one.question.id), "answer": evalai_answer(one.text)}
            for one in responses
        ]
        path.write_text(json.dumps(records), encoding="utf-8")
        return [answers, path]

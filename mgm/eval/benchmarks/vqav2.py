"""VQAv2: questions about photographs; the answers of the test are known to its server alone."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response, SkippedQuestion
from mgm.eval.metrics.vqa_accuracy import agreement, normal_answer, vqav2_answer
from mgm.eval.tasks.benchmark import LMMS_EVAL, PAPER, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, RequiredFile
from mgm.eval.tasks.llava_format import llava_questions, write_answers_file
from mgm.eval.tasks.prompts import SHORT_ANSWER_PROMPT


class VQAv2(Benchmark):
    """A file for the server."""

    name, title, folder = "vqav2", "VQAv2", "vqav2"
    splits = ("test-dev", "val")
    published_splits = ("test-dev",)
    scored_splits = ("val",)
    sizes = {"test-dev": 107394}  # noqa: RUF012
    protocols = (PAPER, LMMS_EVAL)
    sources = {  # noqa: RUF012
        ("val", LMMS_EVAL): HubFiles("lmms-lab-encoder/VQAv2", "**/validation-*.parquet", 214354)
    }

    def published_files(self, split: str) -> list[RequiredFile]:
        """Questions and images."""
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
        """See `Benchmark`."""
        file = folder / "llava_vqav2_mscoco_test-dev2015.jsonl"
        yield from llava_questions(file, folder / "test2015")

    def row_to_question(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """See `Benchmark`."""
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
        """Agreement with ten people, where they are known."""
        normal = vqav2_answer if protocol == LMMS_EVAL else normal_answer
        return agreement(response.text, response.question.target or [], normal)

    def submission(self, responses: Sequence[Response], folder: Path, split: str) -> list[Path]:
        """Answers, and what the server takes."""
        path = folder / "vqav2_test-dev.json"
        answers = write_answers_file(folder / "merge.jsonl", responses)
        records = [
            {"question_id": int(one.question.id), "answer": normal_answer(one.text)}
            for one in responses
        ]
        path.write_text(json.dumps(records), encoding="utf-8")
        return [answers, path]

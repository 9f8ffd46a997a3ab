"""DocVQA: questions about scanned pages, answered with texts that stand there."""

import ast
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Question
from mgm.eval.metrics.anls import anls, harness_anls
from mgm.eval.tasks.benchmark import LMMS_EVAL, OFFICIAL, VLMEVALKIT, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, Table
from mgm.eval.tasks.prompts import SINGLE_WORD

DATASET = "lmms-lab-encoder/DocVQA"
VAL = HubFiles(DATASET, "DocVQA/validation-*.parquet", 5349)
TEST = HubFiles(DATASET, "DocVQA/test-*.parquet", 5188)


class DocVQA(Benchmark):
    """Similarity of texts; the official protocol is lmms-eval's with the challenge's formula."""

    name, title, folder = "docvqa", "DocVQA", "docvqa"
    splits = ("val", "test")
    scored = ("val",)
    published_splits = ()
    sizes = {"val": 5349, "test": 5188}  # noqa: RUF012
    protocols = (LMMS_EVAL, VLMEVALKIT, OFFICIAL)
    metric = "ANLS"
    sources = {  # noqa: RUF012
        ("val", LMMS_EVAL): VAL,
        ("val", OFFICIAL): VAL,
        ("val", VLMEVALKIT): Table("DocVQA_VAL.tsv", 5349, "d5ee77e1926ff10690d469c56b73eabf"),
        ("test", LMMS_EVAL): TEST,
        ("test", OFFICIAL): TEST,
    }

    def from_row(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """See `Benchmark`."""
        answers = row["answer"] if protocol == VLMEVALKIT else row.get("answers")
        return Question(
            id=str(row["index"] if protocol == VLMEVALKIT else row["questionId"]),
            text=f"{row['question']}\n{SINGLE_WORD}",
            images=images,
            answer=ast.literal_eval(answers) if isinstance(answers, str) else list(answers or []),
            group=images[0].name,
            max_new_tokens=128 if protocol == VLMEVALKIT else 32,
        )

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """How near the answer is to the nearest right one."""
        near = anls if protocol == OFFICIAL else harness_anls
        answers = answered.question.answer
        return max((near(answered.text, one) for one in answers), default=0.0)

    def submission(self, answered: Sequence[Answered], folder: Path, split: str) -> list[Path]:
        """What the challenge's server takes: https://rrc.cvc.uab.es/?ch=17."""
        if split in self.scored:
            return []
        path = folder / f"docvqa_{split}.json"
        records = [{"questionId": int(one.question.id), "answer": one.text} for one in answered]
        path.write_text(json.dumps(records), encoding="utf-8")
        return [path]

"""DocVQA: questions about scanned pages, answered with texts that stand there."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Question
from mgm.eval.metrics.anls import anls
from mgm.eval.tasks.benchmark import LMMS_EVAL, OFFICIAL, VLMEVALKIT, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, Table
from mgm.eval.tasks.files import text_list
from mgm.eval.tasks.prompts import SINGLE_WORD

DATASET = "lmms-lab-encoder/DocVQA"


def document_sources(
    name: str, val: int, test: int, table: str, md5: str
) -> dict[tuple[str, str], HubFiles | Table]:
    """The files of one of the data set's benchmarks.

    Args:
        name: its folder in the data set of the hub.
        val: questions of the split val.
        test: questions of the split test.
        table: VLMEvalKit's, of the split val.
        md5: of the table.
    """
    on_hub = {
        "val": HubFiles(DATASET, f"{name}/validation-*.parquet", val),
        "test": HubFiles(DATASET, f"{name}/test-*.parquet", test),
    }
    hub = {(split, by): files for split, files in on_hub.items() for by in (LMMS_EVAL, OFFICIAL)}
    return {**hub, ("val", VLMEVALKIT): Table(table, val, md5)}


class DocVQA(Benchmark):
    """Similarity of texts; the official protocol asks as lmms-eval does."""

    name, title, folder = "docvqa", "DocVQA", "docvqa"
    splits = ("val", "test")
    scored = ("val",)
    published_splits = ()
    sizes: ClassVar = {"val": 5349, "test": 5188}
    protocols = (LMMS_EVAL, VLMEVALKIT, OFFICIAL)
    metric = "ANLS"
    sources = document_sources(
        "DocVQA", 5349, 5188, "DocVQA_VAL.tsv", "d5ee77e1926ff10690d469c56b73eabf"
    )

    def from_row(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """See `Benchmark`."""
        answers = row["answer"] if protocol == VLMEVALKIT else row.get("answers")
        return Question(
            id=str(row["index"] if protocol == VLMEVALKIT else row["questionId"]),
            text=f"{row['question']}\n{SINGLE_WORD}",
            images=images,
            answer=text_list(answers),
            group=images[0].name,
            max_new_tokens=128 if protocol == VLMEVALKIT else 32,
        )

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """How near the answer is to the nearest right one."""
        text = answered.text.strip() if protocol == LMMS_EVAL else answered.text
        return max((anls(text, one) for one in answered.question.answer), default=0.0)

    def submission(self, answered: Sequence[Answered], folder: Path, split: str) -> list[Path]:
        """What the challenge's server takes: https://rrc.cvc.uab.es/?ch=17."""
        if split in self.scored:
            return []
        path = folder / f"{self.name}_{split}.json"
        records = [{"questionId": int(one.question.id), "answer": one.text} for one in answered]
        path.write_text(json.dumps(records), encoding="utf-8")
        return [path]

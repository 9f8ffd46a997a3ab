"""DocVQA: questions about scanned documents, scored by ANLS."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response
from mgm.eval.metrics.anls import anls
from mgm.eval.tasks.benchmark import LMMS_EVAL, OFFICIAL, VLMEVALKIT, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, Table
from mgm.eval.tasks.files import as_text_list
from mgm.eval.tasks.prompts import SHORT_ANSWER_PROMPT

DATASET = "lmms-lab-encoder/DocVQA"


def document_sources(
    name: str, val: int, test: int, table: str, md5: str
) -> dict[tuple[str, str], HubFiles | Table]:
    """The data sources of DocVQA or InfoVQA, by split and protocol.

    Args:
        name: folder in the data set on the hub.
        val: number of questions of the split val.
        test: number of questions of the split test.
        table: name of VLMEvalKit's table of the split val.
        md5: MD5 of the table.
    """
    on_hub = {
        "val": HubFiles(DATASET, f"{name}/validation-*.parquet", val),
        "test": HubFiles(DATASET, f"{name}/test-*.parquet", test),
    }
    hub = {(split, by): files for split, files in on_hub.items() for by in (LMMS_EVAL, OFFICIAL)}
    return {**hub, ("val", VLMEVALKIT): Table(table, val, md5)}


class DocVQA(Benchmark):
    """ANLS; the official protocol has the prompts of lmms-eval."""

    name, title, folder = "docvqa", "DocVQA", "docvqa"
    splits = ("val", "test")
    scored_splits = ("val",)
    published_splits = ()
    sizes: ClassVar = {"val": 5349, "test": 5188}
    protocols = (LMMS_EVAL, VLMEVALKIT, OFFICIAL)
    metric = "ANLS"
    sources = document_sources(
        "DocVQA", 5349, 5188, "DocVQA_VAL.tsv", "d5ee77e1926ff10690d469c56b73eabf"
    )

    def row_to_question(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """The question with the instruction to answer with one word or phrase."""
        answers = row["answer"] if protocol == VLMEVALKIT else row.get("answers")
        return Question(
            id=str(row["index"] if protocol == VLMEVALKIT else row["questionId"]),
            text=f"{row['question']}\n{SHORT_ANSWER_PROMPT}",
            images=images,
            target=as_text_list(answers),
            group=images[0].name,
            max_new_tokens=128 if protocol == VLMEVALKIT else 32,
        )

    def score_one(self, response: Response, protocol: str, judge: Judge) -> float:
        """The maximum ANLS over the targets."""
        text = response.text.strip() if protocol == LMMS_EVAL else response.text
        return max((anls(text, one) for one in response.question.target), default=0.0)

    def submission(self, responses: Sequence[Response], folder: Path, split: str) -> list[Path]:
        """The upload for the challenge's server, https://rrc.cvc.uab.es/?ch=17."""
        if split in self.scored_splits:
            return []
        path = folder / f"{self.name}_{split}.json"
        records = [{"questionId": int(one.question.id), "answer": one.text} for one in responses]
        path.write_text(json.dumps(records), encoding="utf-8")
        return [path]

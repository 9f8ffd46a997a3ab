"""V*: multiple choice about small details in high-resolution photographs."""

import re
from pathlib import Path
from typing import Any, ClassVar

from mgm.eval.harness.question import Question
from mgm.eval.metrics.lmms_eval import vstar_letter
from mgm.eval.metrics.multiple_choice import format_choices
from mgm.eval.metrics.vlmevalkit import choice_question
from mgm.eval.tasks.benchmark import LMMS_EVAL, VLMEVALKIT
from mgm.eval.tasks.dataset_source import HubFiles, Table
from mgm.eval.tasks.letter_benchmark import LetterBenchmark
from mgm.eval.tasks.prompts import LETTER_PROMPT

VSTAR_URL = "https://huggingface.co/datasets/xjtupanda/VStar_Bench/resolve/main/VStarBench.tsv"


class VStar(LetterBenchmark):
    """Accuracy, with parts for attribute recognition and spatial relations.

    Source: Wu and Xie, "V*: Guided Visual Search" (2023), https://arxiv.org/abs/2312.14135.
    """

    name, title, folder = "vstar", "V*", "vstar"
    splits = scored_splits = ("test",)
    published_splits = ()
    sizes: ClassVar = {"test": 191}
    protocols = (LMMS_EVAL, VLMEVALKIT)
    judged = (VLMEVALKIT,)
    sources: ClassVar = {
        ("test", LMMS_EVAL): HubFiles("lmms-lab-encoder/vstar-bench", "**/test-*.parquet", 191),
        ("test", VLMEVALKIT): Table(
            "VStarBench.tsv", 191, "b18854d7075574be06b631cd5f7d2d6a", url=VSTAR_URL
        ),
    }

    def row_to_question(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """Choices on a line each; in VLMEvalKit's protocol its own prompt."""
        if protocol == VLMEVALKIT:
            return choice_question(row, images)
        return Question(
            id=str(row["question_id"]),
            text=f"{list_choices(row['text'])}\n{LETTER_PROMPT}",
            images=images,
            target=row["label"].strip().upper(),
            group=str(row["question_id"]),
            category=str(row.get("category") or ""),
            max_new_tokens=16,
        )

    def letter(self, text: str) -> str | None:
        """The letter by lmms-eval's rules."""
        return vstar_letter(text)


def list_choices(text: str) -> str:
    """Put the choices of a question, such as "(A) one (B) two", on a line each.

    Source: `vstar_doc_to_text` of lmms-eval's vstar_bench, utils.py.
    """
    choices = re.findall(r"\([A-D]\)\s*([^()]+?)(?=\s*\([A-D]\)|$)", text)
    if not choices:
        return text
    question = text.partition("(A)")[0].strip()
    return f"{question}\n{format_choices([choice.strip() for choice in choices[:4]])}"

"""MMStar: vision-indispensable multiple choice, balanced over eighteen axes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mgm.eval.harness.question import Question, macro_average
from mgm.eval.metrics.lmms_eval import mcq_letter
from mgm.eval.metrics.vlmevalkit import choice_question
from mgm.eval.tasks.benchmark import LMMS_EVAL, VLMEVALKIT
from mgm.eval.tasks.dataset_source import HubFiles, Table
from mgm.eval.tasks.letter_benchmark import LetterBenchmark
from mgm.eval.tasks.prompts import LETTER_PROMPT


class MMStar(LetterBenchmark):
    """Accuracy; in lmms-eval the macro average over the eighteen axes.

    Source: Chen et al., "Are We on the Right Way" (2024), https://arxiv.org/abs/2403.20330.
    """

    name, title, folder = "mmstar", "MMStar", "mmstar"
    splits = scored_splits = ("val",)
    published_splits = ()
    sizes: ClassVar = {"val": 1500}
    combine_metadata = ("kind",)
    protocols = (LMMS_EVAL, VLMEVALKIT)
    judged = (VLMEVALKIT,)
    sources: ClassVar = {
        ("val", LMMS_EVAL): HubFiles("Lin-Chen/MMStar", "mmstar.parquet", 1500),
        ("val", VLMEVALKIT): Table("MMStar.tsv", 1500, "e1ecd2140806c1b1bbf54b43372efb9e"),
    }

    def row_to_question(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """lmms-eval's prompt contains the choices in the question, VLMEvalKit's lists them."""
        if protocol == VLMEVALKIT:
            return choice_question(row, images)
        question = row["question"].strip().replace(" Please answer yes or no.", "")
        return Question(
            id=str(row["index"]),
            text=f"{question}\n{LETTER_PROMPT.removesuffix('.')}",
            images=images,
            target=row["answer"].strip().upper(),
            group=str(row["index"]),
            category=row["category"],
            max_new_tokens=1024,
            metadata={"kind": row["l2_category"]},
        )

    def letter(self, text: str) -> str:
        """The letter by lmms-eval's rules."""
        return mcq_letter(text, "ABCD")

    def combine(self, questions: Sequence[Question], credits: Sequence[float]) -> float:
        """Accuracy in per cent; in lmms-eval the macro average over axes."""
        if questions and "kind" in questions[0].metadata:
            return macro_average([one.metadata["kind"] for one in questions], credits)
        return super().combine(questions, credits)

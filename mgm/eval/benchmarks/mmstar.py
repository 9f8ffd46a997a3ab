"""MMStar: questions that cannot be answered without the image, balanced over their kinds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Question
from mgm.eval.metrics.lmms_eval import extracted_letter
from mgm.eval.metrics.vlmevalkit import choice_credit, choice_question
from mgm.eval.tasks.benchmark import LMMS_EVAL, VLMEVALKIT, Benchmark, mean_of_means
from mgm.eval.tasks.dataset_source import HubFiles, Table
from mgm.eval.tasks.prompts import LETTER


class MMStar(Benchmark):
    """Accuracy of all questions; lmms-eval takes the mean of its eighteen kinds.

    Source: Chen et al., "Are We on the Right Way" (2024), https://arxiv.org/abs/2403.20330.
    """

    name, title, folder = "mmstar", "MMStar", "mmstar"
    splits = scored = ("val",)
    published_splits = ()
    sizes: ClassVar = {"val": 1500}
    combine_facts = ("kind",)
    protocols = (LMMS_EVAL, VLMEVALKIT)
    judged = (VLMEVALKIT,)
    sources: ClassVar = {
        ("val", LMMS_EVAL): HubFiles("Lin-Chen/MMStar", "mmstar.parquet", 1500),
        ("val", VLMEVALKIT): Table("MMStar.tsv", 1500, "e1ecd2140806c1b1bbf54b43372efb9e"),
    }

    def from_row(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """See `Benchmark`."""
        if protocol == VLMEVALKIT:
            return choice_question(row, images)
        asked = row["question"].strip().replace(" Please answer yes or no.", "")
        return Question(
            id=str(row["index"]),
            text=f"{asked}\n{LETTER.removesuffix('.')}",
            images=images,
            answer=row["answer"].strip().upper(),
            group=str(row["index"]),
            category=row["category"],
            max_new_tokens=1024,
            facts={"kind": row["l2_category"]},
        )

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """Whether the letter is right."""
        if protocol == VLMEVALKIT:
            return choice_credit(answered, judge)
        return float(extracted_letter(answered.text, "ABCD") == answered.question.answer)

    def parse(self, answered: Answered, protocol: str) -> str | None:
        """See `Benchmark`."""
        if protocol == VLMEVALKIT:
            return super().parse(answered, protocol)
        return extracted_letter(answered.text, "ABCD")

    def combine(self, questions: Sequence[Question], credits: Sequence[float]) -> float:
        """The mean in per cent: of all questions, or in lmms-eval of the kinds' means."""
        if questions and "kind" in questions[0].facts:
            return mean_of_means([one.facts["kind"] for one in questions], credits)
        return super().combine(questions, credits)

"""MMStar: questions that cannot be answered without the image, balanced over their kinds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response, macro_average
from mgm.eval.metrics.lmms_eval import mcq_letter
from mgm.eval.metrics.vlmevalkit import choice_question, score_multiple_choice
from mgm.eval.tasks.benchmark import LMMS_EVAL, VLMEVALKIT, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, Table
from mgm.eval.tasks.prompts import LETTER_PROMPT


class MMStar(Benchmark):
    """Accuracy of all questions; lmms-eval takes the mean of its eighteen kinds.

    Source: Chen et al., "Are We on the Right Way" (2024), https://arxiv.org/abs/2403.20330.
    """

    name, title, folder = "mmstar", "MMStar", "mmstar"
    splits = scored_splits = ("val",)
    published_splits = ()
    sizes = {"val": 1500}  # noqa: RUF012
    combine_metadata = ("kind",)
    protocols = (LMMS_EVAL, VLMEVALKIT)
    judged = (VLMEVALKIT,)
    sources = {  # noqa: RUF012
        ("val", LMMS_EVAL): HubFiles("Lin-Chen/MMStar", "mmstar.parquet", 1500),
        ("val", VLMEVALKIT): Table("MMStar.tsv", 1500, "e1ecd2140806c1b1bbf54b43372efb9e"),
    }

    def row_to_question(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """See `Benchmark`."""
        if protocol == VLMEVALKIT:
            return choice_question(row, images)
        asked = row["question"].strip().replace(" Please answer yes or no.", "")
        return Question(
            id=str(row["index"]),
            text=f"{asked}\n{LETTER_PROMPT.removesuffix('.')}",
            images=images,
            target=row["answer"].strip().upper(),
            group=str(row["index"]),
            category=row["category"],
            max_new_tokens=1024,
            metadata={"kind": row["l2_category"]},
        )

    def score_one(self, response: Response, protocol: str, judge: Judge) -> float:
        """Whether the letter is right."""
        if protocol == VLMEVALKIT:
            return score_multiple_choice(response, judge)
        return float(mcq_letter(response.text, "ABCD") == response.question.target)

    def parse(self, response: Response, protocol: str) -> str | None:
        """See `Benchmark`."""
        if protocol == VLMEVALKIT:
            return super().parse(response, protocol)
        return mcq_letter(response.text, "ABCD")

    def combine(self, questions: Sequence[Question], credits: Sequence[float]) -> float:
        """The mean in per cent: of all questions, or in lmms-eval of the kinds' means."""
        if questions and "kind" in questions[0].metadata:
            return macro_average([one.metadata["kind"] for one in questions], credits)
        return super().combine(questions, credits)

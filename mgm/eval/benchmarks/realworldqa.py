"""RealWorldQA: spatial questions about photographs, many of them taken from vehicles."""

from pathlib import Path
from typing import Any, ClassVar

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response
from mgm.eval.metrics.lmms_eval import mcq_letter
from mgm.eval.metrics.vlmevalkit import choice_question, score_multiple_choice
from mgm.eval.tasks.benchmark import LMMS_EVAL, VLMEVALKIT, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, Table

ABCD = "ABCD"


class RealWorldQA(Benchmark):
    """Accuracy of letters, and in lmms-eval's protocol of short answers too.

    Source: https://x.ai/news/grok-1.5v.
    """

    name, title, folder = "realworldqa", "RealWorldQA", "realworldqa"
    splits = scored_splits = ("test",)
    published_splits = ()
    sizes: ClassVar = {"test": 765}
    protocols = (LMMS_EVAL, VLMEVALKIT)
    judged = (VLMEVALKIT,)
    sources: ClassVar = {
        ("test", LMMS_EVAL): HubFiles("lmms-lab-encoder/RealWorldQA", "**/test-*.parquet", 765),
        ("test", VLMEVALKIT): Table("RealWorldQA.tsv", 765, "4de008f55dc4fd008ca9e15321dc44b7"),
    }

    def row_to_question(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """The question, which contains choices and instruction; VLMEvalKit lists choices."""
        if protocol == VLMEVALKIT:
            return choice_question(row, images)
        return Question(
            id=str(number - 1),
            text=row["question"].strip(),
            images=images,
            target=row["answer"].strip(),
            group=images[0].name,
            max_new_tokens=16,
        )

    def score_one(self, response: Response, protocol: str, judge: Judge) -> float:
        """Whether the letter is the target, or the short answer, ignoring case and a final period.

        Source: `realworldqa_process_results` of lmms-eval's realworldqa, utils.py.
        """
        if protocol == VLMEVALKIT:
            return score_multiple_choice(response, judge)
        target = response.question.target
        if target.upper() in tuple(ABCD):
            return float(mcq_letter(response.text, ABCD) == target.upper())
        return float(response.text.lower().strip().rstrip(".") == target.lower())

    def parse(self, response: Response, protocol: str) -> str | None:
        """The letter; None for questions with short answers."""
        if protocol == VLMEVALKIT:
            return super().parse(response, protocol)
        if response.question.target.upper() in tuple(ABCD):
            return mcq_letter(response.text, ABCD)
        return None

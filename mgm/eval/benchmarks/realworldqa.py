"""RealWorldQA: spatial questions about photographs, many of them from cars."""

from pathlib import Path
from typing import Any, ClassVar

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Question
from mgm.eval.metrics.lmms_eval import extracted_letter
from mgm.eval.metrics.vlmevalkit import choice_credit, choice_question
from mgm.eval.tasks.benchmark import LMMS_EVAL, VLMEVALKIT, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, Table

LETTERS = "ABCD"


class RealWorldQA(Benchmark):
    """Letters, and in lmms-eval's protocol short answers, too.

    Source: https://x.ai/news/grok-1.5v.
    """

    name, title, folder = "realworldqa", "RealWorldQA", "realworldqa"
    splits = scored = ("test",)
    published_splits = ()
    sizes: ClassVar = {"test": 765}
    protocols = (LMMS_EVAL, VLMEVALKIT)
    judged = (VLMEVALKIT,)
    sources: ClassVar = {
        ("test", LMMS_EVAL): HubFiles("lmms-lab-encoder/RealWorldQA", "**/test-*.parquet", 765),
        ("test", VLMEVALKIT): Table("RealWorldQA.tsv", 765, "4de008f55dc4fd008ca9e15321dc44b7"),
    }

    def from_row(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """See `Benchmark`."""
        if protocol == VLMEVALKIT:
            return choice_question(row, images)
        return Question(
            id=str(number - 1),
            text=row["question"].strip(),
            images=images,
            answer=row["answer"].strip(),
            group=images[0].name,
            max_new_tokens=16,
        )

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """Whether the letter is right, or the short answer but for case and a full stop.

        Source: `realworldqa_process_results` of lmms-eval's realworldqa, utils.py.
        """
        if protocol == VLMEVALKIT:
            return choice_credit(answered, judge)
        right = answered.question.answer
        if right.upper() in tuple(LETTERS):
            return float(extracted_letter(answered.text, LETTERS) == right.upper())
        return float(answered.text.lower().strip().rstrip(".") == right.lower())

    def parse(self, answered: Answered, protocol: str) -> str | None:
        """See `Benchmark`."""
        if protocol == VLMEVALKIT:
            return super().parse(answered, protocol)
        if answered.question.answer.upper() in tuple(LETTERS):
            return extracted_letter(answered.text, LETTERS)
        return None

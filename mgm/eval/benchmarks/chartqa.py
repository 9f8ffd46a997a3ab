"""ChartQA: questions about charts, by people and made from captions."""

from pathlib import Path
from typing import Any, ClassVar

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Question
from mgm.eval.tasks.benchmark import LMMS_EVAL, VLMEVALKIT, Benchmark, row_name
from mgm.eval.tasks.dataset_source import HubFiles, Table
from mgm.eval.tasks.files import text_list
from mgm.eval.tasks.prompts import SINGLE_WORD

TOLERANCE = 0.05  # of a number, relative to the right one


class ChartQA(Benchmark):
    """Relaxed accuracy of all questions; human and augmented ones are parts of it."""

    name, title, folder, metric = "chartqa", "ChartQA", "chartqa", "relaxed accuracy"
    splits = scored = ("test",)
    published_splits = ()
    sizes: ClassVar = {"test": 2500}
    protocols = (LMMS_EVAL, VLMEVALKIT)
    sources: ClassVar = {
        ("test", LMMS_EVAL): HubFiles("lmms-lab-encoder/ChartQA", "**/test-*.parquet", 2500),
        ("test", VLMEVALKIT): Table("ChartQA_TEST.tsv", 2500, "c902e0aa9be5582a7aad6dcf52734b42"),
    }

    def from_row(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """See `Benchmark`."""
        by_lmms_eval = protocol == LMMS_EVAL
        suffix = "Answer the question with a single word." if by_lmms_eval else SINGLE_WORD
        return Question(
            id=str(number - 1),
            text=f"{row['question']}\n{suffix}",
            images=images,
            answer=[row["answer"]] if by_lmms_eval else text_list(row["answer"]),
            group=images[0].name,
            category=str(row.get("type" if by_lmms_eval else "split") or ""),
            max_new_tokens=16 if by_lmms_eval else 128,
            facts={"question_id": row_name(row, number)},
        )

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """Whether a number is near enough, or another answer the right one."""
        text = answered.text.strip()
        return float(any(is_near(text, answer) for answer in answered.question.answer))


def is_near(text: str, answer: str) -> bool:
    """Whether a number differs by at most 5 %; other answers have to be equal but for case.

    Source: Masry et al., "ChartQA" (2022), section 5.1; relaxed_correctness of both harnesses. A
    right answer of 0 has no relative difference: it is compared as a text.
    """
    number, right = _number(text), _number(answer)
    if number is None or not right:
        return text.lower() == answer.lower()
    return abs(number - right) / abs(right) <= TOLERANCE


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None

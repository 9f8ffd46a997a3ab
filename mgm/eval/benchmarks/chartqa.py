"""ChartQA: questions about charts, written by people or generated from captions."""

from pathlib import Path
from typing import Any, ClassVar

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response
from mgm.eval.tasks.benchmark import LMMS_EVAL, VLMEVALKIT, Benchmark, row_id
from mgm.eval.tasks.dataset_source import HubFiles, Table
from mgm.eval.tasks.files import as_text_list
from mgm.eval.tasks.prompts import SHORT_ANSWER_PROMPT

TOLERANCE = 0.05  # relative error of a number


class ChartQA(Benchmark):
    """Relaxed accuracy, with parts for human and augmented questions."""

    name, title, folder, metric = "chartqa", "ChartQA", "chartqa", "relaxed accuracy"
    splits = scored_splits = ("test",)
    published_splits = ()
    sizes: ClassVar = {"test": 2500}
    protocols = (LMMS_EVAL, VLMEVALKIT)
    sources: ClassVar = {
        ("test", LMMS_EVAL): HubFiles("lmms-lab-encoder/ChartQA", "**/test-*.parquet", 2500),
        ("test", VLMEVALKIT): Table("ChartQA_TEST.tsv", 2500, "c902e0aa9be5582a7aad6dcf52734b42"),
    }

    def row_to_question(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """The question with each harness's instruction to answer with one word."""
        by_lmms_eval = protocol == LMMS_EVAL
        suffix = "Answer the question with a single word." if by_lmms_eval else SHORT_ANSWER_PROMPT
        return Question(
            id=str(number - 1),
            text=f"{row['question']}\n{suffix}",
            images=images,
            target=[row["answer"]] if by_lmms_eval else as_text_list(row["answer"]),
            group=images[0].name,
            category=str(row.get("type" if by_lmms_eval else "split") or ""),
            max_new_tokens=16 if by_lmms_eval else 128,
            metadata={"question_id": row_id(row, number)},
        )

    def score_one(self, response: Response, protocol: str, judge: Judge) -> float:
        """Relaxed correctness: a number within 5 %, or an equal text."""
        text = response.text.strip()
        return float(any(is_near(text, target) for target in response.question.target))


def is_near(text: str, target: str) -> bool:
    """Whether a number has a relative error of at most 5 %; other texts have to be equal but case.

    A target of 0 is compared as text. Source: Masry et al., "ChartQA" (2022), section 5.1;
    relaxed_correctness of both harnesses.
    """
    number, expected = _number(text), _number(target)
    if number is None or not expected:
        return text.lower() == target.lower()
    return abs(number - expected) / abs(expected) <= TOLERANCE


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None

"""OCRBench (version 1): recognition of text, documents and formulas."""

from pathlib import Path
from typing import Any, ClassVar

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response
from mgm.eval.tasks.benchmark import LMMS_EVAL, VLMEVALKIT, Benchmark, row_id
from mgm.eval.tasks.dataset_source import HubFiles, Table
from mgm.eval.tasks.files import as_text_list

FORMULAS = "Handwritten Mathematical Expression Recognition"
FORMULA_DATA = "HME100k"  # data set of the formulas, by which lmms-eval recognises them
# Full-width forms of ASCII, and the ideographic space.
FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: ord(" ")}


class OCRBench(Benchmark):
    """Share of responses that contain a target, in per cent; the published score is ten times it.

    Source: https://arxiv.org/abs/2305.07895.
    """

    name, title, folder, metric = "ocrbench", "OCRBench", "ocrbench", "contained answers"
    splits = scored_splits = ("test",)
    published_splits = ()
    sizes: ClassVar = {"test": 1000}
    protocols = (LMMS_EVAL, VLMEVALKIT)
    sources: ClassVar = {
        ("test", LMMS_EVAL): HubFiles("echo840/OCRBench", "**/test-*.parquet", 1000),
        ("test", VLMEVALKIT): Table("OCRBench.tsv", 1000, "e953d98a987cc6e26ef717b61260b778"),
    }

    def row_to_question(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """The bare question; the task decides how the response is compared."""
        by_lmms_eval = protocol == LMMS_EVAL
        kind = row["question_type" if by_lmms_eval else "category"]
        is_formula = row["dataset"] == FORMULA_DATA if by_lmms_eval else kind == FORMULAS
        return Question(
            id=str(number - 1),
            text=row["question"].strip() if by_lmms_eval else row["question"],
            images=images,
            target=as_text_list(row["answer"]),
            group=images[0].name,
            category=kind,
            metadata={"formula": is_formula, "question_id": row_id(row, number)},
        )

    def score_one(self, response: Response, protocol: str, judge: Judge) -> float:
        """Whether the response contains a target."""
        question = response.question
        if question.metadata["formula"]:
            form = _without_blanks
        else:
            form = _folded if protocol == LMMS_EVAL else _low
        text = form(response.text)
        return float(any(form(target) in text for target in question.target))


def _without_blanks(text: str) -> str:
    return text.strip().replace("\n", " ").replace(" ", "")


def _low(text: str) -> str:
    return text.lower().strip().replace("\n", " ")


def _folded(text: str) -> str:
    """ASCII for full-width characters. Source: utils.py of lmms-eval's tasks/ocrbench."""
    return _low(text.translate(FULL_WIDTH))

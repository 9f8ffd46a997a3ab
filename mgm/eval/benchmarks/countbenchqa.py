"""CountBenchQA: counting two to ten objects in photographs."""

from pathlib import Path
from typing import Any, ClassVar

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response
from mgm.eval.tasks.benchmark import LMMS_EVAL, VLMEVALKIT, Benchmark, row_id
from mgm.eval.tasks.dataset_source import HubFiles, Table


class CountBenchQA(Benchmark):
    """Accuracy; for VLMEvalKit a response is right if it contains the target's digits."""

    name, title, folder = "countbenchqa", "CountBenchQA", "countbenchqa"
    splits = scored_splits = ("test",)
    published_splits = ()
    sizes: ClassVar = {"test": 491}
    protocols = (LMMS_EVAL, VLMEVALKIT)
    sources: ClassVar = {
        ("test", LMMS_EVAL): HubFiles("vikhyatk/CountBenchQA", "**/test-*.parquet", 491),
        ("test", VLMEVALKIT): Table("CountBenchQA.tsv", 491, "fc73c8d4ffa665431448753f094d56ff"),
    }

    def row_to_question(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """The prompt of each harness; lmms-eval's includes the caption of the image."""
        by_lmms_eval = protocol == LMMS_EVAL
        return Question(
            id=str(number - 1),
            text=_lmms_eval_prompt(row) if by_lmms_eval else _vlmevalkit_prompt(row),
            images=images,
            target=str(row["number" if by_lmms_eval else "answer"]),
            group=images[0].name,
            max_new_tokens=32 if by_lmms_eval else 128,
            metadata={"question_id": row_id(row, number)},
        )

    def score_one(self, response: Response, protocol: str, judge: Judge) -> float:
        """Exact match in lmms-eval; VLMEvalKit looks for the target in the response."""
        text, target = response.text, response.question.target
        return float(text.strip() == target if protocol == LMMS_EVAL else target in text)


def _lmms_eval_prompt(row: dict[str, Any]) -> str:
    """Caption, which contains the number in words, question and instruction.

    Source: countbenchqa_doc_to_text of lmms-eval's tasks/countbenchqa.
    """
    caption = f"{row['text']}\n\n" if row.get("text") else ""
    return f"{caption}{row['question']}\nAnswer with a single number."


def _vlmevalkit_prompt(row: dict[str, Any]) -> str:
    """Question and instruction. Source: CountBenchQA.build_prompt of VLMEvalKit's image_vqa.py."""
    note = "answer with a number directly e.g. 3. Do not include any additional text."
    return f"{row['question']} Note that: {note}"

"""CountBenchQA: how many objects a photograph shows, from two to ten."""

from pathlib import Path
from typing import Any, ClassVar

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Question
from mgm.eval.tasks.benchmark import LMMS_EVAL, VLMEVALKIT, Benchmark, row_name
from mgm.eval.tasks.dataset_source import HubFiles, Table


class CountBenchQA(Benchmark):
    """Exact numbers; VLMEvalKit takes an answer that contains the right number's digits."""

    name, title, folder = "countbenchqa", "CountBenchQA", "countbenchqa"
    splits = scored = ("test",)
    published_splits = ()
    sizes: ClassVar = {"test": 491}
    protocols = (LMMS_EVAL, VLMEVALKIT)
    sources: ClassVar = {
        ("test", LMMS_EVAL): HubFiles("vikhyatk/CountBenchQA", "**/test-*.parquet", 491),
        ("test", VLMEVALKIT): Table("CountBenchQA.tsv", 491, "fc73c8d4ffa665431448753f094d56ff"),
    }

    def from_row(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """See `Benchmark`."""
        by_lmms_eval = protocol == LMMS_EVAL
        return Question(
            id=str(number - 1),
            text=_lmms_eval_prompt(row) if by_lmms_eval else _vlmevalkit_prompt(row),
            images=images,
            answer=str(row["number" if by_lmms_eval else "answer"]),
            group=images[0].name,
            max_new_tokens=32 if by_lmms_eval else 128,
            facts={"question_id": row_name(row, number)},
        )

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """Whether the number is right."""
        text, answer = answered.text, answered.question.answer
        return float(text.strip() == answer if protocol == LMMS_EVAL else answer in text)


def _lmms_eval_prompt(row: dict[str, Any]) -> str:
    """The image's caption, which names the number in words, goes first.

    Source: countbenchqa_doc_to_text of lmms-eval's tasks/countbenchqa.
    """
    caption = f"{row['text']}\n\n" if row.get("text") else ""
    return f"{caption}{row['question']}\nAnswer with a single number."


def _vlmevalkit_prompt(row: dict[str, Any]) -> str:
    """Source: CountBenchQA.prompt of VLMEvalKit's image_vqa.py."""
    note = "answer with a number directly e.g. 3. Do not include any additional text."
    return f"{row['question']} Note that: {note}"

"""HR-Bench: multiple choice about 4K and 8K photographs, in four rounds of permuted choices."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response, macro_average
from mgm.eval.metrics.lmms_eval import hrbench_letter
from mgm.eval.metrics.multiple_choice import LETTERS, format_choices
from mgm.eval.metrics.vlmevalkit import choice_question, letter_of_judge, score_multiple_choice
from mgm.eval.tasks.benchmark import LMMS_EVAL, VLMEVALKIT, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, Table

HRBENCH_URL = "https://huggingface.co/datasets/DreamMr/HR-Bench/resolve/main/{name}"
HRBENCH_TABLES = {
    "4k": ("hr_bench_4k.tsv", "f6b041b03d49543494b8a56d2e35be65"),
    "8k": ("hr_bench_8k.tsv", "274c9c7f89329b804a4723178a00219c"),
}


class HRBench(Benchmark):
    """Mean accuracy of the four rounds, with parts for single and cross-instance questions.

    Source: Wang et al., "Divide, Conquer and Combine" (2024), https://arxiv.org/abs/2408.15556.
    """

    name, title, folder = "hrbench", "HR-Bench", "hrbench"
    metric = "mean accuracy of rounds"
    splits = scored_splits = ("4k", "8k")
    published_splits = ()
    sizes: ClassVar = {"4k": 800, "8k": 800}
    combine_metadata = ("round",)
    protocols = (LMMS_EVAL, VLMEVALKIT)
    judged = (LMMS_EVAL, VLMEVALKIT)
    sources: ClassVar = {
        **{
            (split, LMMS_EVAL): HubFiles("DreamMr/HR-Bench", f"**/hrbench_{split}-*.parquet", 800)
            for split in ("4k", "8k")
        },
        **{
            (split, VLMEVALKIT): Table(name, 800, md5, url=HRBENCH_URL)
            for split, (name, md5) in HRBENCH_TABLES.items()
        },
    }

    def row_to_question(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """lmms-eval's or VLMEvalKit's prompt, with the round of the order of choices."""
        metadata: Mapping[str, Any]
        if protocol == VLMEVALKIT:
            question = choice_question(row, images)
            text, metadata = question.text, question.metadata
        else:
            choices = {one: str(row[one]) for one in LETTERS if row.get(one) is not None}
            lines = f"{format_choices(choices)}\n" if choices else ""
            text = f"{row['question'].strip()}\n{lines}Answer the option letter directly."
            metadata = {"question": row["question"], "choices": choices}
        return Question(
            id=str(row["index"]),
            text=text,
            images=images,
            target=row["answer"],
            group=images[0].name,
            category=str(row["category"]),
            max_new_tokens=1024,
            metadata={**metadata, "round": str(row["cycle_category"])},
        )

    def score_one(self, response: Response, protocol: str, judge: Judge) -> float:
        """Whether the letter of the response is the target."""
        if protocol == VLMEVALKIT:
            return score_multiple_choice(response, judge)
        question = response.question
        letter = hrbench_letter(response.text, question.metadata["choices"])
        if letter is None and judge.is_model:
            letter = letter_of_judge(question, response.text, judge, hrbench_letter)
        return float(letter is not None and letter.lower() == question.target.lower())

    def parse(self, response: Response, protocol: str) -> str | None:
        """The letter by the rules of the harness."""
        if protocol == VLMEVALKIT:
            return super().parse(response, protocol)
        return hrbench_letter(response.text, response.question.metadata["choices"]) or ""

    def combine(self, questions: Sequence[Question], credits: Sequence[float]) -> float:
        """The mean over rounds of their accuracies, in per cent."""
        return macro_average([one.metadata["round"] for one in questions], credits)

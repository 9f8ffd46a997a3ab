"""HR-Bench: questions about photographs of 4K and 8K, each with its choices in four orders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Question
from mgm.eval.metrics.lmms_eval import hrbench_letter
from mgm.eval.metrics.multiple_choice import LETTERS, listed
from mgm.eval.metrics.vlmevalkit import choice_credit, choice_question, judged_letter
from mgm.eval.tasks.benchmark import LMMS_EVAL, VLMEVALKIT, Benchmark, mean_of_means
from mgm.eval.tasks.dataset_source import HubFiles, Table

SITE = "https://huggingface.co/datasets/DreamMr/HR-Bench/resolve/main/{name}"
TABLES = {
    "4k": ("hr_bench_4k.tsv", "f6b041b03d49543494b8a56d2e35be65"),
    "8k": ("hr_bench_8k.tsv", "274c9c7f89329b804a4723178a00219c"),
}


class HRBench(Benchmark):
    """The mean of the accuracies in the four rounds; of single things and of several, too.

    Source: Wang et al., "Divide, Conquer and Combine" (2024), https://arxiv.org/abs/2408.15556.
    """

    name, title, folder = "hrbench", "HR-Bench", "hrbench"
    metric = "mean accuracy of rounds"
    splits = scored = ("4k", "8k")
    published_splits = ()
    sizes: ClassVar = {"4k": 800, "8k": 800}
    combine_facts = ("round",)
    protocols = (LMMS_EVAL, VLMEVALKIT)
    judged = (LMMS_EVAL, VLMEVALKIT)
    sources: ClassVar = {
        **{
            (split, LMMS_EVAL): HubFiles("DreamMr/HR-Bench", f"**/hrbench_{split}-*.parquet", 800)
            for split in ("4k", "8k")
        },
        **{
            (split, VLMEVALKIT): Table(name, 800, md5, url=SITE)
            for split, (name, md5) in TABLES.items()
        },
    }

    def from_row(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """See `Benchmark`."""
        facts: Mapping[str, Any]
        if protocol == VLMEVALKIT:
            question = choice_question(row, images)
            text, facts = question.text, question.facts
        else:
            choices = {one: str(row[one]) for one in LETTERS if row.get(one) is not None}
            lines = f"{listed(choices)}\n" if choices else ""
            text = f"{row['question'].strip()}\n{lines}Answer the option letter directly."
            facts = {"question": row["question"], "choices": choices}
        return Question(
            id=str(row["index"]),
            text=text,
            images=images,
            answer=row["answer"],
            group=images[0].name,
            category=str(row["category"]),
            max_new_tokens=1024,
            facts={**facts, "round": str(row["cycle_category"])},
        )

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """Whether the letter is right."""
        if protocol == VLMEVALKIT:
            return choice_credit(answered, judge)
        question = answered.question
        letter = hrbench_letter(answered.text, question.facts["choices"])
        if letter is None and judge.is_model:
            letter = judged_letter(question, answered.text, judge, hrbench_letter)
        return float(letter is not None and letter.lower() == question.answer.lower())

    def parse(self, answered: Answered, protocol: str) -> str | None:
        """See `Benchmark`."""
        if protocol == VLMEVALKIT:
            return super().parse(answered, protocol)
        return hrbench_letter(answered.text, answered.question.facts["choices"]) or ""

    def combine(self, questions: Sequence[Question], credits: Sequence[float]) -> float:
        """The mean of the rounds' accuracies, in per cent."""
        return mean_of_means([one.facts["round"] for one in questions], credits)

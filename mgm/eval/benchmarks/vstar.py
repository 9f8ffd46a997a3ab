"""V*: small things in large photographs, with choices."""

import re
from pathlib import Path
from typing import Any, ClassVar

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Question
from mgm.eval.metrics.multiple_choice import listed
from mgm.eval.metrics.vlmevalkit import choice_credit, choice_question
from mgm.eval.tasks.benchmark import LMMS_EVAL, VLMEVALKIT, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, Table
from mgm.eval.tasks.prompts import LETTER

SITE = "https://huggingface.co/datasets/xjtupanda/VStar_Bench/resolve/main/VStarBench.tsv"
# The letter of an answer in capitals, by the first form that is found.
_FORMS = (
    r"^([A-D])",
    r"(?:ANSWER|CHOICE|OPTION)(?:\s+IS)?[\s:]+([A-D])",
    r"\(([A-D])\)",
    r"([A-D])\s*[.)\]]",
    r"(?:^|\s)([A-D])(?:\s|$)",
)


class VStar(Benchmark):
    """Accuracy of all questions; attributes and relative positions are parts of it.

    Source: Wu and Xie, "V*: Guided Visual Search" (2023), https://arxiv.org/abs/2312.14135.
    """

    name, title, folder = "vstar", "V*", "vstar"
    splits = scored = ("test",)
    published_splits = ()
    sizes: ClassVar = {"test": 191}
    protocols = (LMMS_EVAL, VLMEVALKIT)
    judged = (VLMEVALKIT,)
    sources: ClassVar = {
        ("test", LMMS_EVAL): HubFiles("lmms-lab-encoder/vstar-bench", "**/test-*.parquet", 191),
        ("test", VLMEVALKIT): Table(
            "VStarBench.tsv", 191, "b18854d7075574be06b631cd5f7d2d6a", url=SITE
        ),
    }

    def from_row(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """See `Benchmark`."""
        if protocol == VLMEVALKIT:
            return choice_question(row, images)
        return Question(
            id=str(row["question_id"]),
            text=f"{lettered(row['text'])}\n{LETTER}",
            images=images,
            answer=row["label"].strip().upper(),
            group=str(row["question_id"]),
            category=str(row.get("category") or ""),
            max_new_tokens=16,
        )

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """Whether the letter is right."""
        if protocol == VLMEVALKIT:
            return choice_credit(answered, judge)
        return float(named_letter(answered.text) == answered.question.answer)

    def parse(self, answered: Answered, protocol: str) -> str | None:
        """See `Benchmark`."""
        if protocol == VLMEVALKIT:
            return super().parse(answered, protocol)
        return named_letter(answered.text) or ""


def lettered(text: str) -> str:
    """A question whose choices, "(A) one (B) two", get a line each.

    Source: `vstar_doc_to_text` of lmms-eval's vstar_bench, utils.py.
    """
    choices = re.findall(r"\([A-D]\)\s*([^()]+?)(?=\s*\([A-D]\)|$)", text)
    if not choices:
        return text
    question = text.partition("(A)")[0].strip()
    return f"{question}\n{listed([choice.strip() for choice in choices[:4]])}"


def named_letter(text: str) -> str | None:
    """The letter that an answer names; None: none, or several.

    Compat: an answer that begins with one of the letters names it, be it in a word.
    Source: `extract_answer_letter` of lmms-eval's vstar_bench, utils.py.
    """
    text = text.strip().upper()
    for form in _FORMS:
        found = re.search(form, text)
        if found:
            return found[1]
    letters = re.findall(r"[A-D]", text)
    return letters[0] if len(letters) == 1 else None

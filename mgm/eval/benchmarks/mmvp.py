"""MMVP: pairs of images that CLIP takes for the same, and one question about both."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Question
from mgm.eval.metrics.multiple_choice import listed
from mgm.eval.metrics.vlmevalkit import choice_credit, choice_question
from mgm.eval.tasks.benchmark import LMMS_EVAL, VLMEVALKIT, Benchmark, row_name
from mgm.eval.tasks.dataset_source import HubFiles, Table
from mgm.eval.tasks.prompts import LETTER

# The letter of an answer, by the first form that is found.
_FORMS = (
    r"^\s*\(?([AB])\)?\.?\s*$",
    r"^\s*\(?([AB])\)?[\.\s]",
    r"answer\s+is\s+\(?([AB])\)?",
    r"option\s+\(?([AB])\)?",
    r"\(?([AB])\)?(?:\s|$)",
)


class MMVP(Benchmark):
    """A pair counts as right where both of its answers are.

    Source: Tong et al., "Eyes Wide Shut?" (2024), https://arxiv.org/abs/2401.06209.
    """

    name, title, folder, metric = "mmvp", "MMVP", "mmvp", "pair accuracy"
    splits = scored = ("test",)
    published_splits = ()
    sizes: ClassVar = {"test": 300}
    protocols = (LMMS_EVAL, VLMEVALKIT)
    judged = (VLMEVALKIT,)
    sources: ClassVar = {
        ("test", LMMS_EVAL): HubFiles("lmms-lab-eval/MMVP", "**/train-*.parquet", 300),
        ("test", VLMEVALKIT): Table("MMVP.tsv", 300, "8cb732b141a0cba5b42159df2839e557"),
    }

    def from_row(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """See `Benchmark`; rows of a pair follow one another."""
        pair = str((number - 1) // 2)
        if protocol == VLMEVALKIT:
            question = choice_question(row, images)
            text, answer, facts = question.text, question.answer, question.facts
        else:
            asked, choices = _first(row, "Question"), _first(row, "Options")
            if isinstance(choices, str):
                choices = parsed_options(choices)
            text = f"{asked}\n{listed(choices)}\n{LETTER}"
            answer, facts = right_letter(_first(row, "Correct Answer", "answer")), {}
        return Question(
            id=str(number - 1),
            text=text,
            images=images,
            answer=answer,
            group=pair,
            max_new_tokens=16 if protocol == LMMS_EVAL else 1024,
            facts={**facts, "question_id": row_name(row, number)},
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

    def combine(self, questions: Sequence[Question], credits: Sequence[float]) -> float:
        """Share of pairs with both answers right, in per cent; half a pair does not count."""
        pairs: dict[str, list[float]] = defaultdict(list)
        for question, credit in zip(questions, credits, strict=True):
            pairs[question.group].append(credit)
        whole = [min(own) for own in pairs.values() if len(own) == 2]
        return 100 * sum(whole) / len(whole) if whole else 0.0

    def parts(
        self, questions: Sequence[Question], credits: Sequence[float]
    ) -> dict[str, tuple[float, int]]:
        """The accuracy of single questions."""
        return {"single questions": (100 * sum(credits) / len(credits), len(credits))}


def parsed_options(text: str) -> list[str]:
    """The choices in "(a) open (b) closed". Source: `_parse_options` of lmms-eval's mmvp."""
    found = re.findall(r"\([a-z]\)\s*([^(]+?)(?=\s*\([a-z]\)|$)", text, re.IGNORECASE)
    return [one.strip() for one in found]


def right_letter(text: str) -> str:
    """The letter of "(a)" or "a". Source: `_normalize_answer` of lmms-eval's mmvp, utils.py."""
    text = text.strip().lower()
    for letter in "ab":
        if f"({letter})" in text or text == letter:
            return letter.upper()
    return text.upper()


def named_letter(text: str) -> str:
    """The letter that an answer names; empty: none.

    Source: `_extract_answer_letter` of lmms-eval's mmvp, utils.py.
    """
    text = text.strip()
    for form in _FORMS:
        found = re.search(form, text, re.IGNORECASE)
        if found:
            return found[1].upper()
    return text[:1].upper() if text[:1].upper() in ("A", "B") else ""


def _first(row: dict[str, Any], *names: str) -> Any:
    for name in (*names, *(name.lower() for name in names)):
        if name in row:
            return row[name]
    raise KeyError(names[0])

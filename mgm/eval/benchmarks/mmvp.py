"""MMVP: pairs of images with similar CLIP embeddings, and one question about both."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mgm.eval.harness.question import Question
from mgm.eval.metrics.lmms_eval import mmvp_letter
from mgm.eval.metrics.multiple_choice import format_choices
from mgm.eval.metrics.vlmevalkit import choice_question
from mgm.eval.tasks.benchmark import LMMS_EVAL, VLMEVALKIT, row_id
from mgm.eval.tasks.dataset_source import HubFiles, Table
from mgm.eval.tasks.letter_benchmark import LetterBenchmark
from mgm.eval.tasks.prompts import LETTER_PROMPT


class MMVP(LetterBenchmark):
    """Pair accuracy: a pair is right if both of its questions are.

    Source: Tong et al., "Eyes Wide Shut?" (2024), https://arxiv.org/abs/2401.06209.
    """

    name, title, folder, metric = "mmvp", "MMVP", "mmvp", "pair accuracy"
    splits = scored_splits = ("test",)
    published_splits = ()
    sizes: ClassVar = {"test": 300}
    protocols = (LMMS_EVAL, VLMEVALKIT)
    judged = (VLMEVALKIT,)
    sources: ClassVar = {
        ("test", LMMS_EVAL): HubFiles("lmms-lab-eval/MMVP", "**/train-*.parquet", 300),
        ("test", VLMEVALKIT): Table("MMVP.tsv", 300, "8cb732b141a0cba5b42159df2839e557"),
    }

    def row_to_question(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """Question and choices; the rows of a pair are consecutive."""
        pair = str((number - 1) // 2)
        if protocol == VLMEVALKIT:
            question = choice_question(row, images)
            text, target, metadata = question.text, question.target, question.metadata
        else:
            question_text, choices = _first(row, "Question"), _first(row, "Options")
            if isinstance(choices, str):
                choices = parsed_options(choices)
            text = f"{question_text}\n{format_choices(choices)}\n{LETTER_PROMPT}"
            target, metadata = target_letter(_first(row, "Correct Answer", "answer")), {}
        return Question(
            id=str(number - 1),
            text=text,
            images=images,
            target=target,
            group=pair,
            max_new_tokens=16 if protocol == LMMS_EVAL else 1024,
            metadata={**metadata, "question_id": row_id(row, number)},
        )

    def letter(self, text: str) -> str:
        """The letter by lmms-eval's rules."""
        return mmvp_letter(text)

    def combine(self, questions: Sequence[Question], credits: Sequence[float]) -> float:
        """The share of pairs with both questions right, in per cent, without incomplete pairs."""
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
    """Parse choices such as "(a) open (b) closed". Source: `_parse_options` of lmms-eval's mmvp."""
    options = re.findall(r"\([a-z]\)\s*([^(]+?)(?=\s*\([a-z]\)|$)", text, re.IGNORECASE)
    return [one.strip() for one in options]


def target_letter(text: str) -> str:
    """The capital letter of a target such as "(a)" or "a".

    Source: `_normalize_answer` of lmms-eval's mmvp, utils.py.
    """
    text = text.strip().lower()
    for letter in "ab":
        if f"({letter})" in text or text == letter:
            return letter.upper()
    return text.upper()


def _first(row: dict[str, Any], *names: str) -> Any:
    for name in (*names, *(name.lower() for name in names)):
        if name in row:
            return row[name]
    raise KeyError(names[0])
